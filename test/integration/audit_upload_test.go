//go:build audit

package integration

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditQuotaExceeded checks data B1: two uploads that end at the same time do not exceed their owner's quota.
func TestAuditQuotaExceeded(t *testing.T) {
	const quota = 10
	u := startUpload(t, 0, "")
	// The proxy holds the sum of the owner's files back, once.
	var armed atomic.Bool
	held, released := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release()
	w := newWire(t, host(t, u.uri), mongoMessages, func(m moment) bool {
		if m == (moment{"aggregate fs.files", true, false}) && armed.CompareAndSwap(true, false) {
			close(held)
			<-released
		}
		return false
	})
	url := runFunction(t, "upload", append(u.settings, "MONGODB_URI="+w.through(t, u.uri), "EVENTS_URL="+startSink(t), "UPLOAD_QUOTA="+strconv.Itoa(quota))...)

	// A file of unknown length has room for its first byte.
	body, more := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/upload?name=b", body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", u.bearer)
	request.Header.Set("Content-Type", "text/plain") // Otherwise upload waits for more bytes, which tell the type.
	responded := make(chan error, 1)
	go func() {
		response, err := httpClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		responded <- err
	}()
	if _, err := io.WriteString(more, "b"); err != nil {
		t.Fatal(err)
	}
	uploads := u.db.Collection("uploads")
	servertest.Eventually(t, servertest.Recovery, "the upload begins", func() error {
		return unless(servertest.CountDocuments(t, uploads, bson.D{}) == 1, "there is no note of it")
	})

	// An upload by tus of 6 bytes has room as well, or is refused.
	status, _, err := u.askTus(t.Context(), http.MethodPost, url+"/upload/tus/", nil, "Upload-Length", "6")
	if err != nil || status != http.StatusCreated && status != http.StatusInsufficientStorage {
		t.Fatalf("create an upload by tus: got status %d and error %v, want 201 or 507", status, err)
	}

	// The file of unknown length ends with 6 bytes. While upload waits for the sum of the files, the upload by tus ends, too.
	armed.Store(true)
	if _, err := io.WriteString(more, "bbbbb"); err != nil {
		t.Fatal(err)
	}
	_ = more.Close()
	done := false
	select {
	case <-held:
	case err = <-responded:
		done = true
	}
	if status == http.StatusCreated {
		var note struct {
			ID string `bson:"_id"`
		}
		if err := uploads.FindOne(t.Context(), bson.D{{Key: "length", Value: 6}}).Decode(&note); err != nil {
			t.Fatal(err)
		}
		if _, _, err := u.askTus(t.Context(), http.MethodPatch, url+"/upload/tus/"+note.ID, []byte("aaaaaa"), "Upload-Offset", "0"); err != nil {
			t.Fatal(err)
		}
	}
	release()
	if !done {
		err = <-responded
	}
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	for _, file := range read[struct{ Length int64 }](t, u.db.Collection("fs.files")) {
		used += file.Length
	}
	if used > quota {
		t.Errorf("got %d bytes used, want at most %d", used, quota)
	}
}

// TestAuditKeyOfAnotherFile checks data B5: upload does not accept a file under the idempotency key of another file of the same length.
func TestAuditKeyOfAnotherFile(t *testing.T) {
	u := startUpload(t, 1, startSink(t))
	_, first := u.post(t, 0, "2026-01-01 balance 100", "daily")
	if status, second := u.post(t, 0, "2026-01-02 balance 200", "daily"); status == http.StatusAccepted && second == first {
		t.Errorf("got status 202 and the id of the first file, %s, for another file, want a refusal or another id", first)
	}
}

// TestAuditKeyAfterDeletion checks data B6: a 202 for a key whose file was deleted names a file that exists.
func TestAuditKeyAfterDeletion(t *testing.T) {
	u := startUpload(t, 1, startSink(t))
	files := u.startFiles(t)
	_, first := u.post(t, 0, "hello", "key")
	if status, _, _ := u.call(t, http.MethodDelete, files+"/files/"+first); status != http.StatusNoContent {
		t.Fatalf("delete file %s: got status %d, want 204", first, status)
	}
	status, again := u.post(t, 0, "hello", "key")
	if status != http.StatusAccepted {
		return
	}
	if status, _, _ := u.call(t, http.MethodGet, files+"/files/"+again+"/content"); status != http.StatusOK {
		t.Errorf("got status 202 for file %s and status %d for its content, want 200", again, status)
	}
}

// countCommands returns uri through a proxy that counts the commands to MongoDB, and a function that returns how many there
// were since its last call.
func countCommands(t *testing.T, uri string) (through string, commands func() int64) {
	t.Helper()
	var n atomic.Int64
	w := newWire(t, host(t, uri), mongoMessages, func(m moment) bool {
		if !m.answer && !m.passed && strings.Contains(m.what, " ") { // Commands that have no collection are the driver's.
			n.Add(1)
		}
		return false
	})
	return w.through(t, uri), func() int64 { return n.Swap(0) }
}

// TestAuditUploadCost checks data B3: under a quota the number of commands of an upload does not depend on how many uploads its owner has open.
func TestAuditUploadCost(t *testing.T) {
	u := startUpload(t, 0, "")
	uri, commands := countCommands(t, u.uri)
	u.urls = []string{runFunction(t, "upload", append(u.settings, "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "UPLOAD_QUOTA=1GiB")...)}
	cost := func() int64 {
		commands()
		if status, _ := u.post(t, 0, "hello", ""); status != http.StatusAccepted {
			t.Fatalf("upload a file: got status %d, want 202", status)
		}
		return commands()
	}
	want := cost()
	for range 20 {
		u.createTus(t, 10)
	}
	if got := cost(); got != want {
		t.Errorf("got %d commands with 20 open uploads, want %d as without", got, want)
	}
}

// TestAuditSweepCost checks data A5: the number of commands of a sweep does not depend on how many uploads are open and not due.
func TestAuditSweepCost(t *testing.T) {
	sink := startSink(t)
	u := startUpload(t, 1, sink)
	uri, commands := countCommands(t, u.uri)
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+sink, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1h")
	cost := func() int64 {
		commands()
		if status, _ := postSweep(t, sweep); status != http.StatusOK {
			t.Fatalf("sweep: got status %d, want 200", status)
		}
		return commands()
	}
	want := cost()
	for range 20 {
		u.createTus(t, 10)
	}
	time.Sleep(10 * time.Millisecond)
	if got := cost(); got != want {
		t.Errorf("got %d commands with 20 open uploads, want %d as without", got, want)
	}
}
