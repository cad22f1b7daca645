package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// killGrace is the age from which sweep processes an unfinished upload in these tests. The defaults are 2 minutes
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
		{"after the confirm", func(int) trigger {
			return at(moment{"ack", true, true})
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
	v := &victim{}
	mongoWire := newWire(t, host(t, k.uri), mongoMessages, v.watch)
	brokerWire := newWire(t, host(t, k.broker.URL), amqpFrames, v.watch)
	if err := v.start(t, "upload", "TOKEN_KEYS_FILE="+k.keys, "TOKEN_ISSUER=https://issuer.test", "TOKEN_AUDIENCE=strongroom",
		"MONGODB_URI="+mongoWire.through(t, k.uri), "EVENTS_URL="+brokerWire.through(t, k.broker.URL)); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	servertest.Eventually(t, servertest.Recovery, "upload accepts a file", func() error {
		id, digest, err := k.send(t, client, v.url, 1<<10)
		if err == nil {
			accepted[id] = digest
		}
		return err
	})

	v.arm(when, v.kill)
	type outcome struct {
		id, digest string
		err        error
	}
	outcomes := make(chan outcome, 2)
	for range cap(outcomes) {
		go func() {
			id, digest, err := k.send(t, client, v.url, 2<<20+1+rand.IntN(1<<16)) // three chunks
			outcomes <- outcome{id, digest, err}
		}()
	}
	for range cap(outcomes) {
		if o := <-outcomes; o.err == nil {
			accepted[o.id] = o.digest
		}
	}
	select {
	case <-v.ended:
	case <-time.After(servertest.Recovery):
		text, err := os.ReadFile(v.log)
		t.Fatalf("the trigger did not kill the function within %v; its log (read error: %v):\n%s", servertest.Recovery, err, text)
	}
}

// victim is a function that a test kills or suspends at a moment of the proxies in front of its stores.
type victim struct {
	url, log string
	ended    chan struct{} // closed when the process has ended
	process  *os.Process

	mu   sync.Mutex
	when trigger           // nil if nothing will happen
	hit  func() (cut bool) // is called when the trigger returns true
	done bool              // set if hit was called
}

// watch is the watch function of the proxies in front of the victim's stores.
func (v *victim) watch(m moment) (cut bool) {
	v.mu.Lock()
	if v.when == nil || !v.when(m) {
		v.mu.Unlock()
		return false
	}
	v.when, v.done = nil, true
	hit := v.hit
	v.mu.Unlock()
	return hit()
}

// arm sets the trigger, and what happens the first time that the trigger returns true.
func (v *victim) arm(when trigger, hit func() (cut bool)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.when, v.hit, v.done = when, hit, false
}

// disarm removes the trigger. It reports whether the trigger has returned true.
func (v *victim) disarm() (done bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.when = nil
	return v.done
}

// kill kills the victim with SIGKILL.
func (v *victim) kill() (cut bool) {
	_ = v.process.Kill() // fails if the process has ended
	<-v.ended
	return true
}

// start runs a function, until the test ends, and waits until it accepts requests. build must have built the function
// before start is called in a goroutine.
func (v *victim) start(t *testing.T, function string, settings ...string) error {
	log, err := os.CreateTemp(t.TempDir(), function)
	if err != nil {
		return err
	}
	defer log.Close()
	v.log = log.Name()
	cmd := exec.Command(build(t, function))
	cmd.Stdout, cmd.Stderr = log, log
	// The function chooses a free port, because many functions start at the same time.
	if cmd.Env, err = environment(cmd.Path, settings); err != nil {
		return err
	}
	cmd.Env = append([]string{"HOST=127.0.0.1", "PORT=0", "SWEEP_INTERVAL=0s"}, cmd.Env...)
	if err := cmd.Start(); err != nil {
		return err
	}
	v.process, v.ended = cmd.Process, make(chan struct{})
	go func() {
		_ = cmd.Wait() // returns an error, because the process is killed
		close(v.ended)
	}()
	t.Cleanup(func() { v.kill() })
	for deadline := time.Now().Add(servertest.Recovery); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(v.log)
		if err != nil {
			return err
		}
		if found := serving.FindSubmatch(text); found != nil {
			v.url = "http://" + string(found[1])
			return nil
		}
	}
	text, err := os.ReadFile(v.log)
	return fmt.Errorf("%s does not accept requests after %v; its log (read error: %v):\n%s", function, servertest.Recovery, err, text)
}

// serving matches the log line of a function that accepts requests.
var serving = regexp.MustCompile(`"msg":"serving","address":"([^"]+)"`)

// send uploads a random file and returns its ID and digest. It returns an error if the file is not accepted.
func (k *kills) send(t *testing.T, client *http.Client, url string, size int) (id, sum string, err error) {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/upload?name=file.bin", bytes.NewReader(body))
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
	if n, err := db.Collection("uploads").CountDocuments(t.Context(), bson.D{}); err != nil || n != 0 {
		t.Errorf("got %d notes after all events (%v), want none", n, err)
	}
	for id := range entries {
		if files[id] == "" {
			t.Errorf("got a catalog entry for %s, which is not a file", id)
		}
	}
	t.Logf("%d files with catalog entries", len(files))
}

// digests returns the digests of all files by ID. It checks that the content of each file matches its document, and
// that each chunk belongs to a file or an upload.
func digests(t *testing.T, db *mongo.Database) map[string]string {
	t.Helper()
	state, err := servertest.ReadStore(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range state.ContentViolations() {
		t.Error(v)
	}
	found := map[string]string{}
	for id, f := range state.Files {
		found[id] = f.SHA256
	}
	return found
}
