//go:build audit

package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// startSink returns the URL of a broker that confirms every event and delivers none.
func startSink(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(server.Close)
	return server.URL
}

// startFiles runs the files function on the database of u and returns its URL.
func (u *uploader) startFiles(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "link-key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	return runFunction(t, "files", append(u.settings, "MONGODB_URI="+u.uri, "LINK_KEY_FILE="+key)...)
}

// call sends a request without a body as ada. It returns the status and the body of the response, and the error that ended
// the body.
func (u *uploader) call(t *testing.T, method, url string) (status int, body []byte, err error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", u.bearer)
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// wantNoGhosts fails the test for each entry in ada's list that has no file.
func (u *uploader) wantNoGhosts(t *testing.T, files string) {
	t.Helper()
	status, body, err := u.call(t, http.MethodGet, files+"/files")
	var page struct {
		Files []struct{ ID string }
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &page) != nil {
		t.Fatalf("list files: got status %d, body %s and error %v", status, body, err)
	}
	for _, f := range page.Files {
		if servertest.CountDocuments(t, u.db.Collection("fs.files"), bson.D{{Key: "_id", Value: f.ID}}) == 0 {
			deletion, _, _ := u.call(t, http.MethodDelete, files+"/files/"+f.ID)
			t.Errorf("got an entry of %s without a file, and status %d for its deletion, want no entry", f.ID, deletion)
		}
	}
}

// TestAuditTakenBackFile checks data A4: a file that upload takes back, after sweep published its event, leaves no entry.
func TestAuditTakenBackFile(t *testing.T) {
	var sweep atomic.Pointer[string]
	var once sync.Once
	// This broker refuses the events of upload. Before its first response, sweep publishes the event to record. The short
	// PENDING_GRACE stands for clocks that differ by a minute.
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() {
			time.Sleep(50 * time.Millisecond)
			postSweep(t, *sweep.Load())
		})
		w.WriteHeader(http.StatusNotFound)
	}))
	defer broker.Close()
	u := startUpload(t, 1, broker.URL)
	record := runFunction(t, "record", "MONGODB_URI="+u.uri)
	address := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+record, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1h")
	sweep.Store(&address)
	u.post(t, 0, "hello", "")
	u.wantNoGhosts(t, u.startFiles(t))
}

// TestAuditRedrivenEvent checks data A4: an event that comes when the tombstone of its deleted file is gone creates no entry.
func TestAuditRedrivenEvent(t *testing.T) {
	letters := make(chan []byte, 10)
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		letter, _ := io.ReadAll(r.Body)
		letters <- letter
		w.WriteHeader(http.StatusNoContent)
	}))
	defer broker.Close()
	u := startUpload(t, 1, broker.URL)
	files := u.startFiles(t)
	record := runFunction(t, "record", "MONGODB_URI="+u.uri)
	status, id := u.post(t, 0, "hello", "")
	if status != http.StatusAccepted {
		t.Fatalf("upload a file: got status %d, want 202", status)
	}
	if status, _, _ := u.call(t, http.MethodDelete, files+"/files/"+id); status != http.StatusNoContent {
		t.Fatalf("delete file %s: got status %d, want 204", id, status)
	}
	s, err := content.Open(u.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.ForgetDeletions(t.Context(), time.Now().Add(time.Second)); err != nil { // as sweep does after 30 days
		t.Fatal(err)
	}
	response, err := http.Post(record, "application/cloudevents+json", bytes.NewReader(<-letters)) // as setup redrive does
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	u.wantNoGhosts(t, files)
}

// TestAuditLostEvent checks data A8: sweep publishes the event of an accepted file again if the broker confirmed the event and then lost it.
func TestAuditLostEvent(t *testing.T) {
	u := startUpload(t, 1, startSink(t))
	record := runFunction(t, "record", "MONGODB_URI="+u.uri)
	sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+record, "PENDING_GRACE=10ms", "ORPHAN_GRACE=1h")
	status, id := u.post(t, 0, "hello", "")
	if status != http.StatusAccepted {
		t.Fatalf("upload a file: got status %d, want 202", status)
	}
	for range 3 {
		time.Sleep(50 * time.Millisecond)
		postSweep(t, sweep)
	}
	if n := servertest.CountDocuments(t, u.db.Collection("catalogue"), bson.D{{Key: "_id", Value: id}}); n != 1 {
		t.Errorf("got %d entries of file %s after three sweeps, want 1", n, id)
	}
}

// TestAuditAcceptedFileOutlivesClaim checks data A11: sweep keeps an accepted file, also if the claim of its idempotency key is forgotten and another file has the key.
func TestAuditAcceptedFileOutlivesClaim(t *testing.T) {
	s, uri := openContent(t)
	file := func() content.File {
		t.Helper()
		f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1}, Key: "daily"},
			servertest.NewReader(1, func() error { return io.EOF }), eventOf)
		if err == nil {
			_, err = s.Claim(t.Context(), "daily", f)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	// The event of this file was published. Then Confirm failed, and sweep forgot the claim after 24 hours.
	accepted := file()
	if _, err := s.ForgetClaims(t.Context(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	file()
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=1h")
	time.Sleep(50 * time.Millisecond)
	postSweep(t, sweep)
	if _, err := s.Get(t.Context(), accepted.ID); err != nil {
		t.Errorf("got error %v for the accepted file %s, want the file", err, accepted.ID)
	}
}

// TestAuditBitRot checks data A10: a download of a whole file does not end without an error if the bytes are not the ones that were stored.
func TestAuditBitRot(t *testing.T) {
	u := startUpload(t, 1, startSink(t))
	_, id := u.post(t, 0, "the will of ada", "")
	rot := bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: []byte("the will of eve")}}}}
	if _, err := u.db.Collection("fs.chunks").UpdateOne(t.Context(), bson.D{{Key: "files_id", Value: id}}, rot); err != nil {
		t.Fatal(err)
	}
	status, body, err := u.call(t, http.MethodGet, u.startFiles(t)+"/files/"+id+"/content")
	if status == http.StatusOK && err == nil {
		t.Errorf("got status 200 and %q without an error, want an error", body)
	}
}
