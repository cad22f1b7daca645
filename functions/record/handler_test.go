package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of record against docs/openapi.yaml.
var api = contract.Of("record")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

var cataloguedAt = time.Date(2026, 3, 1, 12, 30, 1, 0, time.UTC)

// fakeCatalog keeps entries in memory by ID.
type fakeCatalog struct {
	before func(method, id string) error // called first by each method, like contenttest.Memory.Before

	mu      sync.Mutex
	entries map[string]catalog.Entry
	inserts int
}

// begin calls the hook, and locks the catalog unless the hook returns an error.
func (c *fakeCatalog) begin(ctx context.Context, method, id string) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("the context has no deadline")
	}
	if c.before != nil {
		if err := c.before(method, id); err != nil {
			return err
		}
	}
	c.mu.Lock()
	return nil
}

func (c *fakeCatalog) Insert(ctx context.Context, e catalog.Entry) (bool, error) {
	if err := c.begin(ctx, "Insert", e.ID); err != nil {
		return false, err
	}
	defer c.mu.Unlock()
	c.inserts++
	if _, exists := c.entries[e.ID]; exists {
		return false, nil
	}
	c.entries[e.ID] = e
	return true, nil
}

func (c *fakeCatalog) Delete(ctx context.Context, id string) error {
	if err := c.begin(ctx, "DeleteEntry", id); err != nil {
		return err
	}
	defer c.mu.Unlock()
	delete(c.entries, id)
	return nil
}

// fixture is a record function with a file store and a catalog in memory.
type fixture struct {
	files   *contenttest.Memory
	entries *fakeCatalog
}

func newFixture() *fixture {
	return &fixture{contenttest.New(), &fakeCatalog{entries: map[string]catalog.Entry{}}}
}

// before sets the hook that all methods of the file store and of the catalog call first.
func (f *fixture) before(hook func(method, id string) error) {
	f.files.Before, f.entries.before = hook, hook
}

// file stores a file, which has a note, and returns its metadata.
func (f *fixture) file(t testing.TB) file.Info {
	t.Helper()
	info := file.Info{Owner: "0190a5c2-0000-7000-8000-000000000001", Name: "a.txt", ContentType: "text/plain"}
	stored, err := f.files.Put(t.Context(), content.File{Info: info}, strings.NewReader("x"),
		func(f *content.File) ([]byte, error) { return events.Encode(t.Context(), f.Info) })
	if err != nil {
		t.Fatal(err)
	}
	return stored.Info
}

// handler returns record with all middleware of a running function.
func (f *fixture) handler(t testing.TB) http.Handler {
	return api.Handler(t, function.Wrap(newHandler(f.entries, f.files, func() time.Time { return cataloguedAt }), time.Minute))
}

// serve returns the response of record to r.
func (f *fixture) serve(t testing.TB, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	f.handler(t).ServeHTTP(w, r)
	return w.Result()
}

// deliver delivers an event in structured mode and returns the status of the response.
func (f *fixture) deliver(t testing.TB, event string) int {
	return f.serve(t, newRequest(http.MethodPost, "/", structured, strings.NewReader(event))).StatusCode
}

// want checks that the catalog contains an entry for exactly the given files, with the stored values, and that
// notes exist for exactly the files in wantNotes.
func (f *fixture) want(t testing.TB, wantFiles []file.Info, wantNotes ...string) {
	t.Helper()
	want := map[string]catalog.Entry{}
	for _, info := range wantFiles {
		want[info.ID] = catalog.Entry{Info: info, CataloguedAt: cataloguedAt}
	}
	if diff := cmp.Diff(want, f.entries.entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if got := f.files.NoteIDs(); !slices.Equal(got, wantNotes) {
		t.Errorf("got notes %q, want %q", got, wantNotes)
	}
}

// event returns the body of the event for a file in structured mode.
func event(t testing.TB, info file.Info) string {
	t.Helper()
	body, err := events.Encode(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// anyInfo returns valid metadata of a file that does not exist.
func anyInfo() file.Info {
	return file.Info{ID: uuid.Must(uuid.NewV7()).String(), Owner: "0190a5c2-0000-7000-8000-000000000001", Name: "a.txt", Size: 1,
		SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: cataloguedAt.Add(-time.Second)}
}

func newRequest(method, target, contentType string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

const (
	structured = "application/cloudevents+json"
	batch      = "application/cloudevents-batch+json"
)

// TestRecord proves that an event adds its file to the catalog and closes the note, and that a second delivery changes
// nothing.
func TestRecord(t *testing.T) {
	f := newFixture()
	info := f.file(t)
	for _, delivery := range []string{"first", "second"} {
		res := f.serve(t, newRequest(http.MethodPost, "/", structured, strings.NewReader(event(t, info))))
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusNoContent || len(body) != 0 || err != nil {
			t.Errorf("%s delivery: got %d with body %q and error %v, want 204 without a body", delivery, res.StatusCode, body, err)
		}
		f.want(t, []file.Info{info})
	}
}

// TestBinaryMode proves that record accepts an event in binary mode at any path, because a Knative Broker delivers events
// in this mode to the path in the trigger.
func TestBinaryMode(t *testing.T) {
	f := newFixture()
	info := f.file(t)
	var e struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal([]byte(event(t, info)), &e); err != nil {
		t.Fatal(err)
	}
	r := newRequest(http.MethodPost, "/from/a/broker", "application/json", strings.NewReader(string(e.Data)))
	for name, value := range map[string]string{
		"Specversion": "1.0", "Type": events.TypeFileStored, "Source": events.SourceUpload, "Id": info.ID,
	} {
		r.Header.Set("Ce-"+name, value)
	}
	if res := f.serve(t, r); res.StatusCode != http.StatusNoContent {
		t.Errorf("got status %d, want 204", res.StatusCode)
	}
	f.want(t, []file.Info{info})
}

// TestForgedEvents proves that record takes only the ID from an event. Every pod in the cluster can send events. All
// other values of the entry come from the stored file, and an ID without a file adds no entry.
func TestForgedEvents(t *testing.T) {
	f := newFixture()
	stored := f.file(t)
	forged := stored
	forged.Owner, forged.Name, forged.Size = "0190a5c2-0000-7000-8000-00000000000f", "invoice.pdf", 99
	forged.SHA256, forged.ContentType = strings.Repeat("0f", 32), "application/pdf"
	forged.StoredAt = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	unknown := forged
	unknown.ID = anyInfo().ID
	for name, info := range map[string]file.Info{"other values": forged, "unknown ID": unknown} {
		if status := f.deliver(t, event(t, info)); status != http.StatusNoContent {
			t.Errorf("%s: got status %d, want 204", name, status)
		}
	}
	f.want(t, []file.Info{stored})
	// A forged event does not replace an existing entry either.
	if status := f.deliver(t, event(t, forged)); status != http.StatusNoContent {
		t.Errorf("got status %d, want 204", status)
	}
	f.want(t, []file.Info{stored})
}

// upload creates a resumable upload whose only byte has arrived, but which is not a file yet. It returns the metadata for
// an event, and a function that commits the upload.
func (f *fixture) upload(t testing.TB) (info file.Info, commit func() file.Info) {
	t.Helper()
	info = anyInfo()
	u, err := f.files.Create(t.Context(), content.Upload{Owner: info.Owner, Name: info.Name, ContentType: info.ContentType,
		Length: 1, ExpiresAt: time.Now().Add(time.Hour)})
	if err == nil {
		_, err = f.files.Append(t.Context(), u.ID, 0, strings.NewReader("x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	info.ID = u.ID
	return info, func() file.Info {
		stored, err := f.files.Finish(t.Context(), u.ID,
			func(f *content.File) ([]byte, error) { return events.Encode(t.Context(), f.Info) })
		if err != nil {
			t.Fatal(err)
		}
		return stored.Info
	}
}

// TestUploadInProgress proves that an event of an upload in progress adds no entry and keeps the note, and that the upload
// can become a file afterward.
func TestUploadInProgress(t *testing.T) {
	f := newFixture()
	forged, commit := f.upload(t)
	if status := f.deliver(t, event(t, forged)); status != http.StatusNoContent {
		t.Errorf("got status %d, want 204", status)
	}
	f.want(t, nil, forged.ID)
	stored := commit()
	if status := f.deliver(t, event(t, stored)); status != http.StatusNoContent {
		t.Errorf("got status %d after the commit, want 204", status)
	}
	f.want(t, []file.Info{stored})
}

// TestStatuses checks the status for each kind of request. None of the requests adds an entry or closes a note.
func TestStatuses(t *testing.T) {
	f := newFixture()
	info := f.file(t)
	good := event(t, info)
	// post returns a request with the event in structured mode. One text in the event is replaced.
	post := func(old, replacement string) *http.Request {
		return newRequest("POST", "/", structured, strings.NewReader(strings.Replace(good, old, replacement, 1)))
	}
	for name, c := range map[string]struct {
		request *http.Request
		want    int
	}{
		// Invalid events: every delivery fails in the same way.
		"nothing":                 {newRequest("POST", "/", "", nil), 422},
		"not an event":            {newRequest("POST", "/", "application/json", strings.NewReader(`{}`)), 422},
		"broken JSON":             {newRequest("POST", "/", structured, strings.NewReader(good[1:])), 422},
		"another type":            {post("stored.v1\"", "stored.v2\""), 422},
		"a missing member":        {post(`"size":1,`, ""), 422},
		"another ID in the data":  {post(`"id":"`+info.ID, `"id":"`+anyInfo().ID), 422},
		"a batch":                 {newRequest("POST", "/", batch, strings.NewReader("["+good+"]")), 422},
		"too large":               {newRequest("POST", "/", structured, strings.NewReader(strings.Repeat(" ", 64<<10)+good)), 422},
		"GET":                     {newRequest("GET", "/", "", nil), 422},
		"HEAD":                    {newRequest("HEAD", "/", "", nil), 422},
		"OPTIONS":                 {newRequest("OPTIONS", "/", "", nil), 422},
		"PUT of an event":         {newRequest("PUT", "/", structured, strings.NewReader(good)), 422},
		"GET of another path":     {newRequest("GET", "/files", "", nil), 422},
		"nothing to another path": {newRequest("POST", "/files", "", nil), 422},
		// function.Wrap refuses the request.
		"a query that cannot be parsed": {newRequest("POST", "/?x=%zz", structured, strings.NewReader(good)), 400},
		// The next delivery can succeed.
		"an incomplete body": {newRequest("POST", "/", structured, iotest.ErrReader(io.ErrUnexpectedEOF)), 503},
		// function.Wrap responds to the health probe.
		"the probe": {newRequest("GET", "/healthz", "", nil), 200},
	} {
		res := f.serve(t, c.request)
		if res.StatusCode != c.want {
			t.Errorf("%s: got status %d, want %d", name, res.StatusCode, c.want)
		}
		f.want(t, nil, info.ID)
		if c.want == 200 {
			continue
		}
		if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: got Content-Type %q, want a problem document", name, got)
		}
		if got := res.Header.Get("Retry-After"); (got != "") != (c.want == 503) {
			t.Errorf("%s: got Retry-After %q, want it only with a 503", name, got)
		}
	}
}

// TestFailedSteps proves that the response is a 503 if any step of record fails or panics, and that the next delivery
// succeeds.
func TestFailedSteps(t *testing.T) {
	for step, isDeleted := range map[string]bool{
		"Get": false, "Insert": false, "IsDeleted": false, "CloseNote": false, "DeleteEntry": true,
	} {
		for name, fail := range map[string]func() error{
			"is unavailable":   func() error { return problem.Unavailable.Because(errors.New("no server"), "the store is unavailable") },
			"takes too long":   func() error { return context.DeadlineExceeded },
			"is canceled":      func() error { return context.Canceled },
			"fails":            func() error { return errors.New("unknown") },
			"is unprocessable": func() error { return fmt.Errorf("a bug: %w", problem.Conflict) },
			"panics":           func() error { panic("bug") },
			"panics to abort":  func() error { panic(http.ErrAbortHandler) },
		} {
			t.Run(step+" "+name, func(t *testing.T) {
				f := newFixture()
				info := f.file(t)
				want := []file.Info{info}
				if isDeleted {
					want = nil
					f.deliver(t, event(t, info))
					f.delete(t, info.ID)
					f.entries.entries[info.ID] = catalog.Entry{Info: info} // record has died after it had added the entry
				}
				f.before(func(method, _ string) error {
					if method == step {
						return fail()
					}
					return nil
				})
				for range 2 {
					if status := f.deliver(t, event(t, info)); status != http.StatusServiceUnavailable {
						t.Errorf("got status %d, want 503", status)
					}
				}
				f.before(nil)
				if status := f.deliver(t, event(t, info)); status != http.StatusNoContent {
					t.Errorf("next delivery: got status %d, want 204", status)
				}
				f.want(t, want)
			})
		}
	}
}

// TestDeliveredManyTimes delivers one event 100 times, from 16 concurrent goroutines.
func TestDeliveredManyTimes(t *testing.T) {
	f := newFixture()
	info := f.file(t)
	body := event(t, info)
	deliveries := make(chan struct{}, 100)
	for range cap(deliveries) {
		deliveries <- struct{}{}
	}
	close(deliveries)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range deliveries {
				if status := f.deliver(t, body); status != http.StatusNoContent {
					t.Errorf("got status %d, want 204", status)
				}
			}
		})
	}
	group.Wait()
	f.want(t, []file.Info{info})
	if f.entries.inserts != 100 {
		t.Errorf("got %d inserts, want 100", f.entries.inserts)
	}
}

// deletion returns the steps of the deletion of a file, in their order.
func (f *fixture) deletion(t testing.TB, id string) []func() error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return []func() error{
		func() error { return f.files.MarkDeleted(ctx, id) },
		func() error { return f.entries.Delete(ctx, id) },
		func() error { return f.files.Delete(ctx, id) },
	}
}

// run runs steps of a deletion.
func run(t testing.TB, steps []func() error) {
	t.Helper()
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// delete deletes a file.
func (f *fixture) delete(t testing.TB, id string) { run(t, f.deletion(t, id)) }

// interrupt delivers an event. Before the given step of record, it runs do. If dies is true, the process of record then
// dies, and the event is delivered again. The result is false if record did not come to the step. A step is the name of a
// method, followed by " again" for the second call.
func (f *fixture) interrupt(t testing.TB, event, step string, dies bool, do func()) bool {
	t.Helper()
	came, calls := false, map[string]int{}
	f.before(func(method, _ string) error {
		if calls[method]++; calls[method] > 1 {
			method += " again"
		}
		if came || method != step {
			return nil
		}
		came = true
		f.before(nil) // the steps in do, and the other steps of record, are not interrupted
		do()
		if dies {
			return problem.Unavailable.With("the process has died")
		}
		return nil
	})
	status := f.deliver(t, event)
	f.before(nil)
	if came && dies {
		if status != http.StatusServiceUnavailable {
			t.Errorf("got status %d, want 503", status)
		}
		status = f.deliver(t, event)
	}
	if status != http.StatusNoContent {
		t.Errorf("got status %d, want 204", status)
	}
	return came
}

// eachStop calls test for each step of record, once for a process that continues after the stop, and once for a process
// that dies.
func eachStop(t *testing.T, steps []string, test func(t *testing.T, step string, dies bool)) {
	for _, step := range steps {
		for dies, outcome := range map[bool]string{false: "continues", true: "dies"} {
			t.Run(step+" "+outcome, func(t *testing.T) { test(t, step, dies) })
		}
	}
}

// TestDeletionDuringRecord proves that a deleted file has no entry and no note, whichever two steps of record the deletion
// comes between, and even if record dies there. A late delivery of the event does not change that.
func TestDeletionDuringRecord(t *testing.T) {
	steps := []string{"Get", "Insert", "IsDeleted", "CloseNote"}
	for name, again := range map[string]bool{"first delivery": false, "second delivery": true} {
		t.Run(name, func(t *testing.T) {
			eachStop(t, steps, func(t *testing.T, step string, dies bool) {
				f := newFixture()
				info := f.file(t)
				if again {
					f.deliver(t, event(t, info))
				}
				if !f.interrupt(t, event(t, info), step, dies, func() { f.delete(t, info.ID) }) {
					t.Errorf("record has not called %s", step)
				}
				f.want(t, nil)
				if status := f.deliver(t, event(t, info)); status != http.StatusNoContent {
					t.Errorf("late delivery: got status %d, want 204", status)
				}
				f.want(t, nil)
			})
		})
	}
}

// TestPartOfDeletionDuringRecord is like TestDeletionDuringRecord, but only the first steps of the deletion come between
// two steps of record. The other steps follow after record. In between, the process that deletes can die, so that sweep
// later runs all steps again.
func TestPartOfDeletionDuringRecord(t *testing.T) {
	for first := 1; first < 3; first++ {
		for name, next := range map[string]int{"deletion continues": first, "deletion starts again": 0} {
			t.Run(fmt.Sprintf("%d steps, %s", first, name), func(t *testing.T) {
				eachStop(t, []string{"Get", "Insert", "IsDeleted", "CloseNote"}, func(t *testing.T, step string, dies bool) {
					f := newFixture()
					info := f.file(t)
					deletion := f.deletion(t, info.ID)
					f.interrupt(t, event(t, info), step, dies, func() { run(t, deletion[:first]) })
					run(t, deletion[next:])
					f.want(t, nil)
				})
			})
		}
	}
}

// TestRecordDuringDeletion proves that a deleted file has no entry and no note if record runs completely between two steps
// of the deletion.
func TestRecordDuringDeletion(t *testing.T) {
	for done := range 4 {
		for name, next := range map[string]int{"deletion continues": done, "deletion starts again": 0} {
			t.Run(fmt.Sprintf("after %d steps, %s", done, name), func(t *testing.T) {
				f := newFixture()
				info := f.file(t)
				deletion := f.deletion(t, info.ID)
				run(t, deletion[:done])
				if status := f.deliver(t, event(t, info)); status != http.StatusNoContent {
					t.Errorf("got status %d, want 204", status)
				}
				run(t, deletion[next:])
				f.want(t, nil)
			})
		}
	}
}

// TestRecordDies proves that an existing file has an entry and no note after the next delivery if record dies before any
// step. Until the entry exists, the note exists.
func TestRecordDies(t *testing.T) {
	eachStop(t, []string{"Get", "Insert", "IsDeleted", "CloseNote"}, func(t *testing.T, step string, dies bool) {
		f := newFixture()
		info := f.file(t)
		f.interrupt(t, event(t, info), step, dies, func() {
			if notes := f.files.NoteIDs(); !slices.Equal(notes, []string{info.ID}) {
				t.Errorf("before %s: got notes %q, want one", step, notes)
			}
		})
		f.want(t, []file.Info{info})
	})
}

// TestTwoRecords proves that a file has an entry and no note if record stops before any step while another process runs
// record completely.
func TestTwoRecords(t *testing.T) {
	eachStop(t, []string{"Get", "Insert", "IsDeleted", "CloseNote"}, func(t *testing.T, step string, dies bool) {
		f := newFixture()
		info := f.file(t)
		f.interrupt(t, event(t, info), step, dies, func() { f.deliver(t, event(t, info)) })
		f.want(t, []file.Info{info})
	})
}

// TestCommitDuringRecord proves that a file has an entry if record receives a forged event of the upload and stops before
// any step, while the upload becomes a file and another process runs record completely.
func TestCommitDuringRecord(t *testing.T) {
	eachStop(t, []string{"Get", "DeleteEntry", "Get again"}, func(t *testing.T, step string, dies bool) {
		f := newFixture()
		forged, commit := f.upload(t)
		var stored file.Info
		f.interrupt(t, event(t, forged), step, dies, func() {
			stored = commit()
			f.deliver(t, event(t, stored))
		})
		f.want(t, []file.Info{stored})
	})
}

// TestOldEvent proves that an event that arrives long after the deletion of its file adds no entry, and deletes an entry
// that record has added to the catalog before it died.
func TestOldEvent(t *testing.T) {
	f := newFixture()
	info := f.file(t)
	f.deliver(t, event(t, info))
	f.delete(t, info.ID)
	for name, entry := range map[string]bool{"without an entry": false, "with an entry": true} {
		if entry {
			f.entries.entries[info.ID] = catalog.Entry{Info: info}
		}
		if status := f.deliver(t, event(t, info)); status != http.StatusNoContent {
			t.Errorf("%s: got status %d, want 204", name, status)
		}
		f.want(t, nil)
	}
}

func TestSetup(t *testing.T) {
	if _, err := setup(t.Context(), config{MongoURI: "mongodb://u:hush@h"}); err == nil ||
		!strings.HasPrefix(err.Error(), "MONGODB_URI_FILE: ") || strings.Contains(err.Error(), "hush") {
		t.Errorf("a URI without a database: got error %v, want one that names MONGODB_URI_FILE and hides the password", err)
	}
	h, err := setup(t.Context(), config{MongoURI: "mongodb://127.0.0.1:1/strongroom"})
	if err != nil {
		t.Fatalf("setup without a server: got error %v, want none", err)
	}
	if err := h.(io.Closer).Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// The source must send the event again, so the status is 503 instead of 408.
func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		f := newFixture()
		return api.Handler(t, function.Wrap(newHandler(f.entries, f.files, time.Now), time.Hour))
	}, http.StatusServiceUnavailable, "POST /\nContent-Type: "+structured)
}
