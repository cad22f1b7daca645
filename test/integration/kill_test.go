package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// killGrace is the age from which sweep processes an unfinished upload in these tests. The defaults are 1 minute
// (PENDING_GRACE) and 15 minutes (ORPHAN_GRACE).
const killGrace = time.Second

// trigger reports whether to kill the function at a moment.
type trigger func(m moment) bool

// at returns a trigger for the first moment that equals m.
func at(m moment) trigger { return func(got moment) bool { return got == m } }

// nth returns a trigger for the nth moment that equals m.
func nth(n int, m moment) trigger {
	return func(got moment) bool {
		if got == m {
			n--
		}
		return n == 0 && got == m
	}
}

// TestUploadKilled proves that killing the upload function with SIGKILL loses no accepted file. It kills the function
// ten times at each step of an upload, during two concurrent uploads. After one sweep, each accepted file has its bytes
// and a catalog entry, each catalog entry has its file, and nothing remains of the other uploads.
func TestUploadKilled(t *testing.T) {
	k := newKills(t)
	for _, step := range []struct {
		name string
		// at returns the trigger of the ith kill.
		at func(i int) trigger
	}{
		{"before the first chunk", func(i int) trigger {
			return at([]moment{
				{"insert uploads", false, false}, {"insert uploads", true, true}, {"insert fs.chunks", false, false},
			}[i%3])
		}},
		{"between chunks", func(i int) trigger {
			return nth(1+i/2%3, []moment{{"insert fs.chunks", true, false}, {"insert fs.chunks", true, true}}[i%2])
		}},
		{"after the files document", func(i int) trigger {
			return at([]moment{
				{"insert fs.files", false, true}, {"insert fs.files", true, false}, {"insert fs.files", true, true}, {"message", false, false},
			}[i%4])
		}},
		{"after publish", func(i int) trigger {
			return at([]moment{{"message", false, true}, {"ack", true, false}}[i%2])
		}},
		{"after the confirm", func(i int) trigger {
			return at([]moment{
				{"ack", true, true}, {"delete uploads", false, false}, {"delete uploads", true, false}, {"delete uploads", true, true},
			}[i%4])
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			servertest.ResetTopology(t, k.broker)
			k.uri = servertest.MongoDB(t).NewDatabase(t)
			c := openCatalog(t, k.uri)
			if err := errors.Join(ensure(t, k.uri), c.EnsureIndexes(t.Context())); err != nil {
				t.Fatal(err)
			}
			adapter(t, k.broker, runFunction(t, "record", "MONGODB_URI="+k.uri))
			sweep := runFunction(t, "sweep", "MONGODB_URI="+k.uri, "EVENTS_URL="+k.broker.URL,
				"PENDING_GRACE="+killGrace.String(), "ORPHAN_GRACE="+killGrace.String())
			accepted := map[string]string{} // the digests of the accepted files, by ID
			for i := range 10 {
				k.round(t, step.at(i), accepted)
			}
			if len(accepted) < 10 {
				t.Errorf("got %d accepted files, want at least the 10 files that were uploaded before the kills", len(accepted))
			}
			time.Sleep(killGrace + 200*time.Millisecond) // until the last upload is older than killGrace
			response, err := http.Post(sweep, "application/json", nil)
			if err != nil {
				t.Fatal(err)
			}
			counts, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK || err != nil {
				t.Fatalf("sweep: got %s %s (%v), want 200", response.Status, counts, err)
			}
			t.Logf("%d accepted files; sweep returned %s", len(accepted), bytes.TrimSpace(counts))
			k.check(t, c, accepted)
		})
	}
}

// ensure creates the indexes of package content in a database.
func ensure(t *testing.T, uri string) error {
	s, err := content.Open(uri)
	if err != nil {
		return err
	}
	return errors.Join(s.EnsureIndexes(t.Context()), s.Close())
}

// kills contains the data that all rounds of TestUploadKilled share.
type kills struct {
	broker servertest.Vhost
	uri    string // the URI of the current step's database
	keys   string // the path of the file with the public keys
	token  string // the access token of a user
}

// newKills creates a virtual host, and signs a user in at the real login function.
func newKills(t *testing.T) *kills {
	t.Helper()
	k := &kills{broker: servertest.RabbitMQ(t).NewVhost(t)}
	dsn := servertest.AccountsDSN(t)
	createUser(t, dsn, "ada", "lovelace-1843")
	settings, _ := loginSettings(t, dsn)
	for _, setting := range settings {
		if file, ok := strings.CutPrefix(setting, "TOKEN_SIGNING_KEY_FILE="); ok {
			k.keys = filepath.Join(filepath.Dir(file), "jwks.json")
		}
	}
	status, body, _, err := signIn(runFunction(t, "login", settings...), "192.0.2.1", "ada", "lovelace-1843")
	if err != nil || status != http.StatusOK {
		t.Fatalf("sign in: got %d, %v, want 200", status, err)
	}
	k.token = body["access_token"].(string)
	return k
}

// round starts an upload function and uploads a small file. It then uploads two larger files at the same time and kills
// the function when the trigger returns true. It adds all accepted files to accepted.
func (k *kills) round(t *testing.T, when trigger, accepted map[string]string) {
	t.Helper()
	var mu sync.Mutex
	armed, ended := false, make(chan struct{})
	cmd := exec.Command(build(t, "upload"))
	watch := func(m moment) (cut bool) {
		mu.Lock()
		defer mu.Unlock()
		if !armed || !when(m) {
			return false
		}
		armed = false
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		return true
	}
	mongoWire := newWire(t, host(t, k.uri), mongoMessages, watch)
	brokerWire := newWire(t, host(t, k.broker.URL), amqpFrames, watch)
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "upload.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOST=127.0.0.1", "PORT=" + port, "TOKEN_KEYS_FILE=" + k.keys, "TOKEN_ISSUER=https://issuer.test",
		"TOKEN_AUDIENCE=strongroom", "MONGODB_URI=" + mongoWire.through(t, k.uri), "EVENTS_URL=" + brokerWire.through(t, k.broker.URL)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // returns an error, because the process is killed
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Kill() // fails if the trigger has killed the process
		<-ended
	}()
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	servertest.Eventually(t, servertest.Recovery, "upload accepts a file", func() error {
		id, digest, err := k.send(t, client, address, 1<<10)
		if err == nil {
			accepted[id] = digest
		}
		return err
	})

	mu.Lock()
	armed = true
	mu.Unlock()
	type outcome struct {
		id, digest string
		err        error
	}
	outcomes := make(chan outcome, 2)
	for range cap(outcomes) {
		go func() {
			id, digest, err := k.send(t, client, address, 2<<20+1+rand.IntN(1<<16)) // three chunks
			outcomes <- outcome{id, digest, err}
		}()
	}
	for range cap(outcomes) {
		if o := <-outcomes; o.err == nil {
			accepted[o.id] = o.digest
		}
	}
	select {
	case <-ended:
	case <-time.After(servertest.Recovery):
		text, err := os.ReadFile(log.Name())
		t.Fatalf("the trigger did not kill the function within %v; its log (read error: %v):\n%s", servertest.Recovery, err, text)
	}
}

// send uploads a random file and returns its ID and digest. It returns an error if the file is not accepted.
func (k *kills) send(t *testing.T, client *http.Client, address string, size int) (id, sum string, err error) {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/upload?name=file.bin", bytes.NewReader(body))
	if err != nil {
		return "", "", err
	}
	request.Header.Set("Authorization", "Bearer "+k.token)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var stored struct{ ID, SHA256 string }
	switch {
	case err != nil:
		return "", "", err
	case response.StatusCode != http.StatusAccepted:
		return "", "", fmt.Errorf("got %s %s, want 202", response.Status, text)
	}
	if err := json.Unmarshal(text, &stored); err != nil {
		return "", "", err
	}
	if want := servertest.SHA256(body); stored.SHA256 != want {
		t.Errorf("response for file %s: got the digest %s, want %s", stored.ID, stored.SHA256, want)
	}
	return stored.ID, stored.SHA256, nil
}

// check checks the contents of all stores after the sweep.
func (k *kills) check(t *testing.T, c *catalog.Store, accepted map[string]string) {
	t.Helper()
	db := servertest.Database(t, k.uri)
	if n, err := db.Collection("uploads").CountDocuments(t.Context(), bson.D{}); err != nil || n != 0 {
		t.Errorf("got %d unfinished uploads after the sweep (%v), want none", n, err)
	}
	files := digests(t, db)
	for id, want := range accepted {
		if got := files[id]; got != want {
			t.Errorf("accepted file %s: got the digest %q, want %q", id, got, want)
		}
	}
	var entries map[string]bool
	servertest.Eventually(t, servertest.Recovery, "each file has a catalog entry", func() error {
		entries = catalogued(t, c)
		for id := range files {
			if !entries[id] {
				return fmt.Errorf("file %s has no entry", id)
			}
		}
		return nil
	})
	wantSettled(t, k.broker, 0)
	for id := range entries {
		if files[id] == "" {
			t.Errorf("got a catalog entry for %s, which is not a file", id)
		}
	}
	t.Logf("%d files with catalog entries", len(files))
}

// digests returns the digests of all files by ID. It checks that the content of each file matches its document, and
// that each chunk belongs to a file.
func digests(t *testing.T, db *mongo.Database) map[string]string {
	t.Helper()
	type file struct {
		ID       string `bson:"_id"`
		Length   int64  `bson:"length"`
		Metadata struct {
			SHA256 string `bson:"sha256"`
		} `bson:"metadata"`
	}
	type chunk struct {
		File string `bson:"files_id"`
		N    int    `bson:"n"`
		Data []byte `bson:"data"`
	}
	chunks := map[string]map[int][]byte{}
	for _, c := range read[chunk](t, db.Collection("fs.chunks")) {
		if chunks[c.File] == nil {
			chunks[c.File] = map[int][]byte{}
		}
		chunks[c.File][c.N] = c.Data
	}
	found := map[string]string{}
	for _, f := range read[file](t, db.Collection("fs.files")) {
		var whole []byte
		for n := range len(chunks[f.ID]) {
			whole = append(whole, chunks[f.ID][n]...)
		}
		delete(chunks, f.ID)
		if found[f.ID] = servertest.SHA256(whole); int64(len(whole)) != f.Length || found[f.ID] != f.Metadata.SHA256 {
			t.Errorf("file %s: got %d bytes with the digest %s, want %d with %s", f.ID, len(whole), found[f.ID], f.Length, f.Metadata.SHA256)
		}
	}
	for id, orphans := range chunks {
		t.Errorf("got %d chunks of %s, which is not a file", len(orphans), id)
	}
	return found
}

// read returns all documents of a collection.
func read[D any](t *testing.T, from *mongo.Collection) []D {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Without a batch size, FerretDB sends all documents in one reply, which can be too long.
	cursor, err := from.Find(ctx, bson.D{}, options.Find().SetBatchSize(2))
	var documents []D
	if err == nil {
		err = cursor.All(ctx, &documents)
	}
	if err != nil {
		t.Fatalf("read %s: %v", from.Name(), err)
	}
	return documents
}
