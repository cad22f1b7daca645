package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// openContent returns a store in a new database, and the URI of the database.
func openContent(t *testing.T) (*content.Store, string) {
	t.Helper()
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, _ := servertest.OpenContent(t, uri)
	return s, uri
}

// TestCommitAfterSweep proves that a file that Put returns can be read, even if sweep tried to discard the upload
// before the commit.
func TestCommitAfterSweep(t *testing.T) {
	s, uri := openContent(t)
	// The short ORPHAN_GRACE stands for a clock that differs by minutes, or for a process that was frozen.
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=1s")
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: -1}}, servertest.NewReader(2*mebi+1, func() error {
		time.Sleep(2500 * time.Millisecond)
		postSweep(t, sweep)
		return io.EOF
	}), eventOf)
	if err != nil {
		return // Put can refuse the file as well.
	}
	if n, err := io.Copy(io.Discard, s.Reader(t.Context(), f)); err != nil || n != f.Size {
		t.Errorf("got %d bytes of file %s and error %v, want %d bytes", n, f.ID, err, f.Size)
	}
	if note, err := s.Notes.Note(t.Context(), f.ID); err != nil || note == nil {
		t.Errorf("got no note of file %s and error %v, want a note", f.ID, err)
	}
}

// TestDeletedUploadStaysDeleted proves that a file from a resumable upload stays deleted if its client or sweep visits
// the upload during the deletion.
func TestDeletedUploadStaysDeleted(t *testing.T) {
	for name, visit := range map[string]func(t *testing.T, u *uploader, sweep, id string){
		"the client asks for the offset": func(t *testing.T, u *uploader, _, id string) {
			if _, _, err := u.askTus(t.Context(), http.MethodHead, u.urls[0]+"/upload/tus/"+id, nil); err != nil {
				t.Fatal(err)
			}
		},
		"sweep": func(t *testing.T, _ *uploader, sweep, _ string) { postSweep(t, sweep) },
	} {
		t.Run(name, func(t *testing.T) {
			const grace = 3 * time.Second
			sink := startSink(t)
			u := startUpload(t, 1, sink)
			sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+sink, "PENDING_GRACE="+grace.String(), "ORPHAN_GRACE=1h")
			s, err := content.Open(u.uri)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			upload, err := s.Create(t.Context(), content.Upload{Owner: "0190-ada", Name: "x", ContentType: "text/plain", Length: mebi + 5, ExpiresAt: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			servertest.AddPiece(t, s, upload.ID, 0, servertest.RandomBytes(mebi+5))
			if _, err := s.Finish(t.Context(), upload.ID, eventOf); err != nil { // There is no catalog entry, so the note stays.
				t.Fatal(err)
			}
			time.Sleep(grace + 500*time.Millisecond)                      // sweep then visits the upload, but does not continue the younger deletion.
			if err := s.MarkDeleted(t.Context(), upload.ID); err != nil { // the first step of DELETE /files/{id}
				t.Fatal(err)
			}
			visit(t, u, sweep, upload.ID)
			if f, err := s.Get(t.Context(), upload.ID); !errors.Is(err, problem.NotFound) {
				t.Errorf("got file %+v and error %v, want %v", f, err, problem.NotFound)
			}
		})
	}
}

// TestJournalOfKilledFunction proves that sweep deletes the journal and the note of an upload if record was killed
// before it could delete them.
func TestJournalOfKilledFunction(t *testing.T) {
	for _, command := range []string{"delete uploads.journal", "delete uploads"} {
		s, uri := openContent(t)
		w := newWire(t, host(t, uri), mongoMessages, func(m moment) bool { return m.what == command })
		killed, err := content.Open(w.through(t, uri))
		if err != nil {
			t.Fatal(err)
		}
		defer killed.Close()
		u := servertest.CreateUpload(t, s, 3*mebi+5)
		servertest.AddPiece(t, s, u.ID, 0, servertest.RandomBytes(3*mebi+5))
		f, err := s.Finish(t.Context(), u.ID, eventOf)
		if err == nil {
			_, err = openCatalog(t, uri).Insert(t.Context(), catalog.Entry{Info: f.Info})
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := killed.CloseNote(t.Context(), u.ID); err == nil {
			t.Fatalf("CloseNote without %q: got no error, want one", command)
		}
		sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=10ms")
		time.Sleep(50 * time.Millisecond)
		postSweep(t, sweep)
		db := servertest.Database(t, uri)
		if n := servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}); n != 0 {
			t.Errorf("after a kill at %q: got %d notes, want none", command, n)
		}
		servertest.WantNoJournal(t, db, u.ID)
	}
}

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
	return runFunction(t, "files", append(u.settings, "MONGODB_URI="+u.uri, "LINK_KEY_FILE="+key, "ACCOUNTS_URL=http://127.0.0.1:1")...)
}

// call sends a request without a body as ada. It returns the status and the body of the response, and the error that
// ended the body.
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
		if servertest.CountDocuments(t, u.db.Collection("fs.files"), append(bson.D{{Key: "_id", Value: f.ID}}, liveFiles...)) == 0 {
			deletion, _, _ := u.call(t, http.MethodDelete, files+"/files/"+f.ID)
			t.Errorf("got an entry of %s without a file, and status %d for its deletion, want no entry", f.ID, deletion)
		}
	}
}

// TestFileOutlivesPublishing proves that a file is accepted and cataloged once if upload cannot publish its event and
// sweep publishes the event at the same time.
func TestFileOutlivesPublishing(t *testing.T) {
	var sweep atomic.Pointer[string]
	var once sync.Once
	// This broker refuses the events of upload. Before its first response, sweep publishes the event to record.
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
	status, id := u.post(t, 0, "hello", "")
	if status != http.StatusAccepted {
		t.Errorf("upload a file: got status %d, want 202", status)
	}
	u.wantEntries(t, id)
	u.wantNoGhosts(t, u.startFiles(t))
}

// wantEntries fails the test unless the catalog consists of one entry for each ID.
func (u *uploader) wantEntries(t *testing.T, ids ...string) {
	t.Helper()
	entries := u.db.Collection("catalogue")
	for _, id := range ids {
		if n := servertest.CountDocuments(t, entries, bson.D{{Key: "_id", Value: id}}); n != 1 {
			t.Errorf("got %d catalog entries of file %s, want 1", n, id)
		}
	}
	if n := servertest.CountDocuments(t, entries, bson.D{}); n != int64(len(ids)) {
		t.Errorf("got %d catalog entries, want %d", n, len(ids))
	}
}

// TestRedrivenEventOfDeletedFile proves that the event of a deleted file adds no catalog entry, however old the event
// is.
func TestRedrivenEventOfDeletedFile(t *testing.T) {
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
	// Delete the mark for the previous version, as sweep does after 24 hours.
	if _, err := u.db.Collection("deletions.tombstones").DeleteMany(t.Context(), bson.D{}); err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(record, "application/cloudevents+json", bytes.NewReader(<-letters)) // as setup redrive does
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	u.wantNoGhosts(t, files)
}

// TestLostEvent proves that sweep publishes the event of an accepted file again if the broker has confirmed the event
// and then lost it.
func TestLostEvent(t *testing.T) {
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

// TestFileOutlivesClaim proves that sweep keeps an accepted file, even if the claim of its idempotency key is forgotten
// and another file has the key.
func TestFileOutlivesClaim(t *testing.T) {
	s, uri := openContent(t)
	put := func() content.File {
		t.Helper()
		f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1}, Key: "daily"},
			servertest.NewReader(1, func() error { return io.EOF }), func(f *content.File) ([]byte, error) {
				if _, err := s.Claim(t.Context(), "daily", *f); err != nil {
					return nil, err
				}
				return eventOf(f)
			})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	accepted := put()
	if _, err := s.ForgetClaims(t.Context(), time.Now().Add(time.Minute)); err != nil { // as sweep does after 24 hours
		t.Fatal(err)
	}
	put()
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=1h")
	time.Sleep(50 * time.Millisecond)
	postSweep(t, sweep)
	if _, err := s.Get(t.Context(), accepted.ID); err != nil {
		t.Errorf("got error %v for the accepted file %s, want the file", err, accepted.ID)
	}
}

// TestDamagedFile proves that a download of a whole file fails if the stored bytes have changed.
func TestDamagedFile(t *testing.T) {
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

// TestQuotaOfConcurrentUploads proves that two uploads that end at the same time do not exceed the quota of their
// owner.
func TestQuotaOfConcurrentUploads(t *testing.T) {
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
	request.Header.Set("Content-Type", "text/plain") // Otherwise, upload waits for more bytes to detect the type.
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

	// The file of unknown length ends with 6 bytes. While upload waits for the sum of the files, the upload by tus
	// ends, too.
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
	state, err := servertest.ReadStore(t.Context(), u.db)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range state.Files {
		used += file.Size
	}
	if used > quota {
		t.Errorf("got %d bytes used, want at most %d", used, quota)
	}
}

// TestKeyAfterDeletion proves that a 202 for an idempotency key whose file was deleted names a file that exists.
func TestKeyAfterDeletion(t *testing.T) {
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

// countCommands returns uri through a proxy that counts the commands to MongoDB, and a function that returns the number
// of commands since its last call.
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

// TestUploadCost proves that, with a quota, the number of commands of an upload does not depend on the number of open
// uploads of its owner.
func TestUploadCost(t *testing.T) {
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
	cost() // counts the files of the user
	// A change of the usage sometimes deletes old versions with an additional command, but not twice in a row.
	want := min(cost(), cost())
	for range 20 {
		u.createTus(t, 10)
	}
	if got := min(cost(), cost()); got != want {
		t.Errorf("got %d commands with 20 open uploads, want %d as without", got, want)
	}
}

// TestSweepCost proves that the number of commands of a sweep does not depend on the number of open uploads that are
// not due.
func TestSweepCost(t *testing.T) {
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
