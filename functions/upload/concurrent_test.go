package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

// TestUploadsAtOnce uploads 40 files of 64 MiB concurrently to the complete function and follows each byte to the
// store. One replica accepts at most 40 requests at the same time. FerretDB would need minutes for 2.5 GiB, and
// MongoDB is not available everywhere. The test therefore uses a store that keeps nothing, and it checks the digest
// of every chunk that the store receives. shared/content tests concurrent uploads to a real database, with less data.
func TestUploadsAtOnce(t *testing.T) {
	const (
		files  = 40
		chunks = 64
		chunk  = 1 << 20
	)
	type place struct {
		file string
		n    int32
	}
	type document struct {
		length int64
		sum    string
	}
	var mu sync.Mutex
	gotChunks, gotFiles := map[place][sha256.Size]byte{}, map[string]document{}
	null, err := nullmongo.Start(func(collection string, d bson.Raw) {
		switch collection {
		case "fs.chunks":
			_, data := d.Lookup("data").Binary()
			at, sum := place{d.Lookup("files_id").StringValue(), d.Lookup("n").Int32()}, sha256.Sum256(data)
			mu.Lock()
			defer mu.Unlock()
			if _, twice := gotChunks[at]; twice {
				t.Errorf("chunk %v was inserted twice", at)
			}
			gotChunks[at] = sum
		case "fs.files":
			mu.Lock()
			defer mu.Unlock()
			gotFiles[d.Lookup("_id").StringValue()] = document{d.Lookup("length").Int64(), d.Lookup("metadata", "sha256").StringValue()}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := null.Close(); err != nil {
			t.Error(err)
		}
	}()
	announced := map[string]int{}
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct{ ID string }
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			t.Errorf("decode event: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		announced[event.ID]++
		w.WriteHeader(http.StatusNoContent)
	}))
	defer sink.Close()
	url, bearer := serve(t, null.URI(), sink.URL)

	// Chunk n of file i consists of the byte i and the random bytes of block that start at index n.
	block := make([]byte, chunk+chunks)
	_, _ = rand.NewChaCha8([32]byte{}).Read(block) // never fails
	body := func(i int) io.Reader {
		var parts []io.Reader
		for n := range chunks {
			parts = append(parts, bytes.NewReader([]byte{byte(i)}), bytes.NewReader(block[n:n+chunk-1]))
		}
		return io.MultiReader(parts...)
	}
	var group errgroup.Group
	for i := range files {
		group.Go(func() error {
			answer, err := send(t, url, bearer, body(i), chunks*chunk)
			if err != nil {
				return fmt.Errorf("file %d: %w", i, err)
			}
			whole := sha256.New()
			for n := range int32(chunks) {
				part := io.LimitReader(io.MultiReader(bytes.NewReader([]byte{byte(i)}), bytes.NewReader(block[n:])), chunk)
				sum := sha256.New()
				if _, err := io.Copy(io.MultiWriter(sum, whole), part); err != nil {
					return err
				}
				mu.Lock()
				got, ok := gotChunks[place{answer.ID, n}]
				mu.Unlock()
				if want := [sha256.Size]byte(sum.Sum(nil)); !ok || got != want {
					return fmt.Errorf("file %d: chunk %d: got found %t and digest %x, want digest %x", i, n, ok, got, want)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			want := document{chunks * chunk, hex.EncodeToString(whole.Sum(nil))}
			if got := gotFiles[answer.ID]; got != want || answer.SHA256 != want.sum || answer.Size != want.length {
				return fmt.Errorf("file %d: got document %v and response %v, want %v", i, got, answer, want)
			}
			if n := announced[answer.ID]; n != 1 {
				return fmt.Errorf("file %d: got %d events, want 1", i, n)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if len(gotFiles) != files || len(gotChunks) != files*chunks || len(announced) != files {
		t.Errorf("got %d files, %d chunks and %d events, want %d, %d and %d", len(gotFiles), len(gotChunks), len(announced), files, files*chunks, files)
	}
}

// serve runs the complete function until the test ends. It returns the URL of the function and an access token.
func serve(t *testing.T, mongoURI, eventsURL string) (url, bearer string) {
	t.Helper()
	private, public, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, jwks := filepath.Join(dir, "key.jwk"), filepath.Join(dir, "jwks.json")
	for path, text := range map[string][]byte{key: private, jwks: public} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := token.LoadSigner(key, "issuer", "audience", time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	bearer, _, err = signer.Sign(token.Subject{ID: owner, Username: "ada", Roles: []string{token.RoleUser}, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	handler, err := setup(t.Context(), config{Settings: token.Settings{KeysFile: jwks, Issuer: "issuer", Audience: "audience"},
		MongoURI: function.Secret(mongoURI), EventsURL: function.Secret(eventsURL), MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(function.Wrap(handler, 10*time.Minute))
	t.Cleanup(func() {
		server.Close()
		if err := handler.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL, bearer
}

// send uploads body, which has size bytes, as a file.
func send(t *testing.T, url, bearer string, body io.Reader, size int64) (answer stored, err error) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/upload?name=a", body)
	if err != nil {
		return stored{}, err
	}
	request.ContentLength = size
	request.Header.Set("Authorization", "Bearer "+bearer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return stored{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusAccepted {
		return stored{}, fmt.Errorf("got %s and %v: %s", response.Status, err, text)
	}
	return answer, json.Unmarshal(text, &answer)
}
