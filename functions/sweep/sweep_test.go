package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// fakeCatalog contains the IDs of the files with a catalog entry.
type fakeCatalog struct {
	before  func(method, id string) error // called first by each method, like contenttest.Memory.Before
	entries map[string]bool
	deleted []string // the arguments of Delete
	unkeyed int      // the number of entries without keys
}

// Missing implements catalogStore. It calls the hook with the method name MissingEntries.
func (c *fakeCatalog) Missing(_ context.Context, ids []string) (missing []string, err error) {
	if c.before != nil {
		err = c.before("MissingEntries", "")
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return c.entries[id] }), nil
}

// Delete implements catalogStore. It calls the hook with the method name DeleteEntry.
func (c *fakeCatalog) Delete(_ context.Context, id string) error {
	if c.before != nil {
		if err := c.before("DeleteEntry", id); err != nil {
			return err
		}
	}
	c.deleted = append(c.deleted, id)
	delete(c.entries, id)
	return nil
}

// AddKeys implements catalogStore.
func (c *fakeCatalog) AddKeys(_ context.Context, limit int) (int, error) {
	if c.before != nil {
		if err := c.before("AddKeys", ""); err != nil {
			return 0, err
		}
	}
	n := min(limit, c.unkeyed)
	c.unkeyed -= n
	return n, nil
}

// fakePublisher records the IDs of published events, or fails with err.
type fakePublisher struct {
	events.Publisher
	err      error
	attempts []string
	ids      []string
}

func (p *fakePublisher) Publish(_ context.Context, e event.Event) error {
	p.attempts = append(p.attempts, e.ID())
	if p.err != nil {
		return p.err
	}
	p.ids = append(p.ids, e.ID())
	return nil
}

// fakeNotes are the notes of a store in memory. The notes of the given uploads come from the previous version.
type fakeNotes struct {
	contenttest.MemoryNotes
	previous map[string]bool
}

func (n fakeNotes) Due(ctx context.Context, stored bool, at time.Time, limit int) ([]outbox.Note, error) {
	due, err := n.MemoryNotes.Due(ctx, stored, at, limit)
	for i := range due {
		due[i].Previous = n.previous[due[i].ID]
	}
	return due, err
}

// api checks the responses of sweep against docs/openapi.yaml.
var api = contract.Of("sweep")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// fixture is a sweeper with its fakes. All of them have the same clock, which begins at the real time.
type fixture struct {
	*sweeper
	store     *contenttest.Memory
	entries   *fakeCatalog
	publisher *fakePublisher
	previous  map[string]bool // see fakeNotes
	depths    events.Depths
	clock     time.Time
}

// newFixture returns a fixture whose pendingGrace is 1 minute and whose orphanGrace is 15 minutes.
func newFixture() *fixture {
	f := &fixture{store: contenttest.New(), entries: &fakeCatalog{entries: map[string]bool{}}, publisher: &fakePublisher{},
		previous: map[string]bool{}, depths: events.Depths{Waiting: 5, Dead: 6}, clock: time.Now().UTC().Truncate(time.Millisecond)}
	now := func() time.Time { return f.clock }
	f.store.Now = now
	f.sweeper = &sweeper{begin: func(context.Context) error { return nil }, files: f.store, notes: fakeNotes{f.store.Notes(), f.previous}, entries: f.entries, publisher: f.publisher,
		queueDepths:  func(context.Context) (events.Depths, error) { return f.depths, nil },
		pendingGrace: time.Minute, orphanGrace: 15 * time.Minute, now: now}
	return f
}

// before sets the hook that all methods of the file store, the notes and the catalog call first.
func (f *fixture) before(hook func(method, id string) error) {
	f.store.Before, f.entries.before = hook, hook
}

// pass lets time pass.
func (f *fixture) pass(d time.Duration) { f.clock = f.clock.Add(d) }

// file stores a file, which has a note but no catalog entry, and returns its ID.
func (f *fixture) file(t *testing.T, key string) string {
	t.Helper()
	info := file.Info{Owner: "ada", Name: "x", ContentType: "text/plain"}
	stored, err := f.store.Put(t.Context(), content.File{Info: info, Key: key}, strings.NewReader("x"),
		func(f *content.File) ([]byte, error) { return events.Encode(t.Context(), f.Info) })
	if err != nil {
		t.Fatal(err)
	}
	return stored.ID
}

// storeFiles stores n files and returns their IDs.
func (f *fixture) storeFiles(t *testing.T, n int) (ids []string) {
	t.Helper()
	for range n {
		ids = append(ids, f.file(t, ""))
	}
	return ids
}

// orphan begins an upload whose process is killed before the commit. It returns the ID.
func (f *fixture) orphan(t *testing.T) (id string) {
	t.Helper()
	_, err := f.store.Put(t.Context(), content.File{}, strings.NewReader("x"), func(f *content.File) ([]byte, error) {
		id = f.ID
		return nil, mongodb.ErrUnknown
	})
	if !errors.Is(err, mongodb.ErrUnknown) {
		t.Fatal(err)
	}
	return id
}

// open creates a resumable upload of one byte that expires after the given time.
func (f *fixture) open(t *testing.T, left time.Duration) string {
	t.Helper()
	return f.openFor(t, "ada", left)
}

// openFor is like open, but the upload belongs to the given user.
func (f *fixture) openFor(t *testing.T, owner string, left time.Duration) string {
	t.Helper()
	u, err := f.store.Create(t.Context(), content.Upload{Owner: owner, Name: "x", ContentType: "text/plain", Length: 1,
		ExpiresAt: f.clock.Add(left)})
	if err != nil {
		t.Fatal(err)
	}
	return u.ID
}

// append adds the only byte of an upload from open.
func (f *fixture) append(t *testing.T, id string) {
	t.Helper()
	if _, err := f.store.Append(t.Context(), id, 0, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
}

// call calls a method of the store that must succeed.
func call(t *testing.T, method func(ctx context.Context, id string) error, id string) {
	t.Helper()
	if err := method(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// note returns the note with the given ID, or nil.
func (f *fixture) note(t *testing.T, id string) *outbox.Note {
	t.Helper()
	note, err := f.store.Notes().Note(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// ids returns the IDs of all files.
func (f *fixture) ids() (ids []string) {
	for _, stored := range f.store.Files() {
		ids = append(ids, stored.ID)
	}
	return ids
}

// ask returns the response of sweep to request, with all middleware of a running function.
func (f *fixture) ask(t *testing.T, request *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	api.Handler(t, function.Wrap(newHandler(f.sweeper), time.Minute)).ServeHTTP(w, request)
	return w
}

// post requests a sweep, checks the status and returns the counts.
func (f *fixture) post(t *testing.T, wantStatus int) counts {
	t.Helper()
	w := f.ask(t, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("anything")))
	if w.Code != wantStatus {
		t.Fatalf("got %d %s, want %d", w.Code, w.Body, wantStatus)
	}
	var got counts
	if wantStatus == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// wantCounts requests a sweep and checks its counts. The lengths of the queues are those of the fixture.
func (f *fixture) wantCounts(t *testing.T, want counts) {
	t.Helper()
	want.Waiting, want.DeadLetters = f.depths.Waiting, f.depths.Dead
	if got := f.post(t, http.StatusOK); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// wantIDs checks a list of IDs.
func wantIDs(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %d IDs %.100q, want %d IDs %.100q", what, len(got), got, len(want), want)
	}
}

// TestPublishIntervals proves that sweep publishes the event of a file without a catalog entry after pendingGrace, then
// after intervals that double, and finally every 24 hours.
func TestPublishIntervals(t *testing.T) {
	f := newFixture()
	start := f.clock
	f.file(t, "")
	var got []int // the times of the publications in minutes
	for minute := range 5 * 24 * 60 {
		f.clock = start.Add(time.Duration(minute) * time.Minute)
		done, err := f.sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range done.Published {
			got = append(got, minute)
		}
	}
	want := []int{1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 2047 + 1440, 2047 + 2*1440, 2047 + 3*1440}
	if !slices.Equal(got, want) {
		t.Errorf("got publications after %v minutes, want %v", got, want)
	}
}

// TestPublishWithinGrace proves that sweep publishes no event before pendingGrace has passed since the commit, because
// the upload function publishes the event itself.
func TestPublishWithinGrace(t *testing.T) {
	f := newFixture()
	id := f.file(t, "")
	f.pass(f.pendingGrace - time.Millisecond)
	f.wantCounts(t, counts{})
	f.pass(time.Millisecond)
	f.wantCounts(t, counts{Published: 1, Uncataloged: 1, UncatalogedSeconds: 60})
	wantIDs(t, "published events", f.publisher.ids, id)
}

// TestCatalogedFile proves that sweep closes the note of a file with a catalog entry and publishes nothing, whether or
// not it has published the event before.
func TestCatalogedFile(t *testing.T) {
	for name, publications := range map[string]int{"never published": 0, "published before": 2} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			id := f.file(t, "")
			for range publications {
				f.pass(time.Hour)
				f.post(t, http.StatusOK)
			}
			f.entries.entries[id] = true
			f.pass(24 * time.Hour)
			f.wantCounts(t, counts{})
			if len(f.publisher.ids) != publications || f.note(t, id) != nil {
				t.Errorf("got %d events and the note %+v, want %d events and no note", len(f.publisher.ids), f.note(t, id), publications)
			}
			wantIDs(t, "files", f.ids(), id)
		})
	}
}

// TestPublishLimit proves that one sweep publishes at most maxPublished events, those of the oldest files first, and
// that the next sweep continues.
func TestPublishLimit(t *testing.T) {
	f := newFixture()
	var want []string
	for range maxPublished + 1 {
		want = append(want, f.file(t, ""))
		f.pass(time.Millisecond)
	}
	f.pass(f.pendingGrace)
	if got := f.post(t, http.StatusOK); got.Published != maxPublished || got.Uncataloged != maxPublished+1 {
		t.Errorf("got %+v, want %d published events and %d files without an entry", got, maxPublished, maxPublished+1)
	}
	if got := f.post(t, http.StatusOK); got.Published != 1 {
		t.Errorf("next sweep: got %+v, want 1 published event", got)
	}
	wantIDs(t, "published events", f.publisher.ids, want...)
}

// TestLongQueue proves that sweep publishes nothing while the queue is long, but does all other work.
func TestLongQueue(t *testing.T) {
	f := newFixture()
	id, deleted := f.file(t, ""), f.file(t, "")
	call(t, f.store.MarkDeleted, deleted)
	f.pass(time.Hour)
	f.depths.Waiting = maxQueued + 1
	f.wantCounts(t, counts{Deleted: 1, Uncataloged: 1, UncatalogedSeconds: 3600})
	f.depths.Waiting = maxQueued
	f.wantCounts(t, counts{Published: 1, Uncataloged: 1, UncatalogedSeconds: 3600})
	wantIDs(t, "published events", f.publisher.ids, id)
}

// TestQueueUnavailable proves that sweep publishes nothing if it cannot read the length of the queue, but does all
// other work.
func TestQueueUnavailable(t *testing.T) {
	f := newFixture()
	id := f.file(t, "")
	call(t, f.store.MarkDeleted, id)
	f.file(t, "")
	f.pass(time.Hour)
	f.queueDepths = func(context.Context) (events.Depths, error) { return events.Depths{}, problem.Unavailable }
	f.post(t, http.StatusServiceUnavailable)
	wantIDs(t, "attempts", f.publisher.attempts)
	wantIDs(t, "deleted entries", f.entries.deleted, id)
}

// TestBrokerDown proves that sweep stops after maxFailures failed publications, and that the next sweep begins with the
// other files. A failed publication does not count, so that the intervals do not become longer.
func TestBrokerDown(t *testing.T) {
	f := newFixture()
	var ids []string
	for range 5 {
		ids = append(ids, f.file(t, ""))
		f.pass(time.Millisecond)
	}
	f.publisher.err = problem.Unavailable
	for _, want := range [][]string{{ids[0], ids[1], ids[2]}, {ids[3], ids[4], ids[0]}, {ids[1], ids[2], ids[0]}} {
		f.publisher.attempts = nil
		f.pass(5 * time.Minute)
		f.post(t, http.StatusServiceUnavailable)
		wantIDs(t, "attempts", f.publisher.attempts, want...)
	}
	f.publisher.err = nil
	f.pass(5 * time.Minute)
	if got := f.post(t, http.StatusOK); got.Published != 5 || got.Uncataloged != 5 {
		t.Errorf("got %+v, want 5 published events", got)
	}
	for _, id := range ids {
		// The next publication is due after the second interval. sweep adds pendingGrace to the due time.
		want := f.clock.Add(outbox.Interval(1, f.pendingGrace) - f.pendingGrace)
		if n := f.note(t, id); n.Published != 1 || !n.DueAt.Equal(want) {
			t.Errorf("got note %+v, want 1 publication and the due time %v", n, want)
		}
	}
}

// TestDeletedFile proves that sweep deletes the note of a deleted file and publishes nothing.
func TestDeletedFile(t *testing.T) {
	f := newFixture()
	id := f.file(t, "")
	f.pass(time.Hour)
	f.post(t, http.StatusOK)
	call(t, f.store.MarkDeleted, id)
	// The deletion is not due yet. Only the publication of the event finds out that the file was deleted.
	if err := f.store.PostponeDeletion(t.Context(), id, f.clock.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.pass(time.Hour)
	f.wantCounts(t, counts{})
	wantIDs(t, "published events", f.publisher.ids, id) // the event of the first sweep
	wantIDs(t, "notes", f.store.NoteIDs())
	f.pass(24 * time.Hour)
	f.wantCounts(t, counts{Deleted: 1})
}

// TestDeletions proves that sweep completes all interrupted deletions, but not before pendingGrace has passed.
func TestDeletions(t *testing.T) {
	f := newFixture()
	ids := f.storeFiles(t, pageSize+1)
	for _, id := range ids {
		f.entries.entries[id] = true
		call(t, f.store.MarkDeleted, id)
	}
	f.pass(f.pendingGrace - time.Millisecond)
	f.wantCounts(t, counts{})
	f.pass(time.Millisecond)
	f.wantCounts(t, counts{Deleted: len(ids)})
	wantIDs(t, "deleted entries", slices.Sorted(slices.Values(f.entries.deleted)), ids...)
	wantIDs(t, "notes", f.store.NoteIDs())
	f.pass(time.Hour)
	f.wantCounts(t, counts{})
}

// TestOrphans proves that sweep discards an upload without a file after orphanGrace. Until then, the process that
// receives the upload might still commit it.
func TestOrphans(t *testing.T) {
	f := newFixture()
	id := f.orphan(t)
	for range 2 {
		f.pass(f.pendingGrace)
		f.wantCounts(t, counts{})
		wantIDs(t, "notes", f.store.NoteIDs(), id)
	}
	f.pass(f.orphanGrace)
	f.wantCounts(t, counts{Discarded: 1})
	wantIDs(t, "notes", f.store.NoteIDs())
	wantIDs(t, "published events", f.publisher.ids)
}

// TestResumableUploads proves that sweep keeps an incomplete resumable upload until it expires or is terminated, and
// then for orphanGrace. In that time, a request that began earlier can still run.
func TestResumableUploads(t *testing.T) {
	for name, c := range map[string]struct {
		expired    time.Duration // the time since the upload expired or was terminated
		terminated bool
		want       int // the number of discarded uploads
	}{
		"not expired":     {-time.Hour, false, 0},
		"just expired":    {14 * time.Minute, false, 0},
		"expired":         {15 * time.Minute, false, 1},
		"just terminated": {14 * time.Minute, true, 0},
		"terminated":      {15 * time.Minute, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			var id string
			if c.terminated {
				id = f.open(t, time.Hour)
				call(t, f.store.Terminate, id)
				f.pass(c.expired)
			} else {
				id = f.open(t, -c.expired)
			}
			for range 2 { // the first sweep sets the due time
				f.wantCounts(t, counts{Discarded: c.want})
				if exists := f.note(t, id) != nil; exists != (c.want == 0) {
					t.Errorf("got a note: %t, want %t", exists, c.want == 0)
				}
				c.want = 0
				if f.note(t, id) == nil {
					return
				}
			}
			f.pass(2 * time.Hour)
			f.wantCounts(t, counts{Discarded: 1})
			wantIDs(t, "notes", f.store.NoteIDs())
		})
	}
}

// TestCompleteUploads proves that sweep turns a complete resumable upload into a file, even if the upload has expired,
// and publishes the event of the file after pendingGrace.
func TestCompleteUploads(t *testing.T) {
	for name, left := range map[string]time.Duration{"complete": time.Hour, "complete and long expired": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			id := f.open(t, left)
			f.append(t, id)
			f.pass(f.pendingGrace)
			f.wantCounts(t, counts{Finished: 1, Uncataloged: 1})
			wantIDs(t, "published events", f.publisher.ids)
			f.pass(f.pendingGrace)
			f.wantCounts(t, counts{Published: 1, Uncataloged: 1, UncatalogedSeconds: 60})
			wantIDs(t, "published events", f.publisher.ids, id)
			wantIDs(t, "files", f.ids(), id)
		})
	}
}

// TestWrongDigest proves that sweep ends a complete resumable upload that does not have the declared digest, and
// discards it after orphanGrace.
func TestWrongDigest(t *testing.T) {
	f := newFixture()
	u, err := f.store.Create(t.Context(), content.Upload{Owner: "ada", SHA256: strings.Repeat("0", 64), Length: 1, ExpiresAt: f.clock.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	f.append(t, u.ID)
	f.pass(f.pendingGrace)
	f.wantCounts(t, counts{})
	if _, err := f.store.Find(t.Context(), u.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Find: got error %v, want %v", err, problem.NotFound)
	}
	wantIDs(t, "notes", f.store.NoteIDs(), u.ID)
	f.pass(f.orphanGrace)
	f.wantCounts(t, counts{Discarded: 1})
	wantIDs(t, "notes", f.store.NoteIDs())
	wantIDs(t, "published events", f.publisher.ids)
}

// TestOpenUploads proves that open uploads do not delay the publication of an event, however many there are. sweep does
// not visit them, because they are not due.
func TestOpenUploads(t *testing.T) {
	f := newFixture()
	for n := range 30_000 {
		f.openFor(t, fmt.Sprint("user", n/1000), time.Hour)
	}
	id := f.file(t, "")
	f.pass(f.pendingGrace)
	visited := map[string]bool{}
	f.before(func(method, of string) error {
		if of != "" && of != id {
			visited[of] = true
		}
		return nil
	})
	f.wantCounts(t, counts{Published: 1, Uncataloged: 1, UncatalogedSeconds: 60})
	if len(visited) != 0 {
		t.Errorf("got %d visited uploads, want none", len(visited))
	}
	wantIDs(t, "published events", f.publisher.ids, id)
}

// TestSlowSteps proves that a step with much work does not use up the time of the other steps, so that sweep still
// publishes events. The next sweeps complete the work.
func TestSlowSteps(t *testing.T) {
	for name, c := range map[string]struct {
		method string // the slow method
		add    func(t *testing.T, f *fixture)
	}{
		"deletions": {"MarkDeleted", func(t *testing.T, f *fixture) { call(t, f.store.MarkDeleted, f.file(t, "")) }},
		"uploads":   {"Finish", func(t *testing.T, f *fixture) { f.append(t, f.open(t, time.Hour)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture()
				id := f.file(t, "")
				f.pass(f.pendingGrace)
				f.depths.Waiting = maxQueued + 1
				f.post(t, http.StatusOK) // finds the file, but does not publish its event
				f.depths.Waiting = 0
				const work = 12
				for range work {
					c.add(t, f)
				}
				f.before(func(method, _ string) error {
					if method == c.method {
						time.Sleep(stepTime / 5)
					}
					return nil
				})
				done := 0
				for sweep := 1; sweep <= 4; sweep++ {
					f.pass(5 * time.Minute)
					begin := time.Now()
					got, err := f.sweep(t.Context())
					if took := time.Since(begin); took > sweepTime {
						t.Errorf("sweep %d: got a duration of %v, want at most %v", sweep, took, sweepTime)
					}
					done += got.Deleted + got.Finished
					if incomplete := done < work; incomplete != errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("sweep %d: got error %v after %d of %d items, want %v only for incomplete work",
							sweep, err, done, work, context.DeadlineExceeded)
					}
					if !slices.Contains(f.publisher.ids, id) {
						t.Errorf("sweep %d: got no event of file %s, want one", sweep, id)
					}
				}
				if done != work {
					t.Errorf("got %d items after all sweeps, want %d", done, work)
				}
			})
		})
	}
}

// TestFailingItems proves that items that always fail do not keep sweep from processing the other items, even if there
// are more of them than one sweep processes.
func TestFailingItems(t *testing.T) {
	for name, c := range map[string]struct {
		method string // the method that always fails
		stored bool   // whether sweep has found the files before
	}{
		"uploads":     {"Get", false},
		"read events": {"Get", true},
		"close notes": {"CloseNote", true},
		"discard":     {"Discard", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			broken := map[string]bool{}
			for _, id := range f.storeFiles(t, maxPublished) {
				broken[id] = true
			}
			f.pass(time.Second)
			id := f.file(t, "")
			f.pass(f.pendingGrace)
			if c.stored {
				f.depths.Waiting = maxQueued + 1 // publishes nothing
				f.post(t, http.StatusOK)
				f.depths.Waiting = 0
			}
			for id := range broken {
				switch c.method {
				case "CloseNote":
					f.entries.entries[id] = true
				case "Discard":
					call(t, f.store.MarkDeleted, id)
					if err := f.store.PostponeDeletion(t.Context(), id, f.clock.Add(time.Hour)); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.before(func(method, id string) error {
				if method == c.method && broken[id] {
					return errors.New("broken")
				}
				return nil
			})
			for range 2 {
				f.post(t, http.StatusInternalServerError)
				f.pass(f.pendingGrace)
			}
			wantIDs(t, "published events", f.publisher.ids[:min(1, len(f.publisher.ids))], id)
		})
	}
}

// TestFailingDeletion proves that a deletion that fails does not stop the other deletions and the other steps.
func TestFailingDeletion(t *testing.T) {
	f := newFixture()
	ids := f.storeFiles(t, 3)
	for _, id := range ids[:2] {
		call(t, f.store.MarkDeleted, id)
	}
	f.pass(time.Hour)
	f.before(func(method, id string) error {
		if method == "Delete" && id == ids[0] {
			return errors.New("broken")
		}
		return nil
	})
	f.post(t, http.StatusInternalServerError)
	pending, err := f.store.PendingDeletions(t.Context(), f.clock, 10)
	if err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "incomplete deletions", pending, ids[0])
	wantIDs(t, "published events", f.publisher.ids, ids[2])
}

// TestPreviousVersion proves what sweep does with files of the previous version, which claims a key only after the
// commit. sweep claims the key. It deletes a file if another file has its key, but only within the lifetime of a claim.
func TestPreviousVersion(t *testing.T) {
	for name, c := range map[string]struct {
		previous  bool
		keys      []string
		age       time.Duration
		kept      []int // the indexes of the files that sweep keeps
		wantClaim bool
	}{
		"one file":                   {true, []string{"key"}, time.Hour, []int{0}, true},
		"no key":                     {true, []string{"", ""}, time.Hour, []int{0, 1}, false},
		"two files":                  {true, []string{"key", "key"}, time.Hour, []int{0}, true},
		"two files, just young":      {true, []string{"key", "key"}, claimLife - time.Second, []int{0}, true},
		"two files, old":             {true, []string{"key", "key"}, claimLife, []int{0, 1}, false},
		"two files, one year old":    {true, []string{"key", "key"}, 365 * 24 * time.Hour, []int{0, 1}, false},
		"two files of this version":  {false, []string{"key", "key"}, time.Hour, []int{0, 1}, false},
		"three files and other keys": {true, []string{"key", "other", "key", "key"}, time.Hour, []int{0, 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			var all, kept, deleted []string
			for n, key := range c.keys {
				id := f.file(t, key)
				f.pass(time.Millisecond)
				f.previous[id] = c.previous
				if all = append(all, id); slices.Contains(c.kept, n) {
					kept = append(kept, id)
				} else {
					deleted = append(deleted, id)
				}
			}
			f.pass(c.age)
			if got := f.post(t, http.StatusOK); got.Published != len(kept) || got.Uncataloged != int64(len(kept)) {
				t.Errorf("got %+v, want %d published events", got, len(kept))
			}
			wantIDs(t, "files", f.ids(), kept...)
			wantIDs(t, "notes", f.store.NoteIDs(), kept...)
			wantIDs(t, "published events", f.publisher.ids, kept...)
			wantIDs(t, "deleted entries", f.entries.deleted, deleted...)
			claimer, found, err := f.store.Claimed(t.Context(), "key")
			if err != nil || found != c.wantClaim || found && claimer.ID != all[0] {
				t.Errorf("Claimed: got file %q, %t and error %v, want %t", claimer.ID, found, err, c.wantClaim)
			}
		})
	}
}

// TestForget proves that sweep deletes claims that are older than 24 hours.
func TestForget(t *testing.T) {
	f := newFixture()
	claim := func(key string) {
		t.Helper()
		if _, err := f.store.Claim(t.Context(), key, content.File{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "b", "c"} {
		claim(key)
	}
	f.pass(2 * time.Second)
	claim("d")
	f.pass(claimLife - time.Second)
	f.wantCounts(t, counts{ForgottenClaims: 3})
}

// TestAddKeys proves that sweep adds the keys of catalog entries, and that it stops after keysTime. The next sweep
// continues.
func TestAddKeys(t *testing.T) {
	f := newFixture()
	const calls = int(keysTime/time.Second) + 1
	f.entries.unkeyed = calls*keysAtOnce + 1
	f.before(func(method, _ string) error {
		if method == "AddKeys" {
			f.pass(time.Second)
		}
		return nil
	})
	for _, want := range []int{keysAtOnce + 1, 0, 0} {
		f.post(t, http.StatusOK)
		if got := f.entries.unkeyed; got != want {
			t.Errorf("got %d entries without keys, want %d", got, want)
		}
	}
}

// TestUncataloged proves that sweep counts the files without a catalog entry, and the time since the first of them was
// stored.
func TestUncataloged(t *testing.T) {
	f := newFixture()
	want := func(files, seconds int64) {
		t.Helper()
		if got := f.post(t, http.StatusOK); got.Uncataloged != files || got.UncatalogedSeconds != seconds {
			t.Errorf("got %d files and %d seconds, want %d and %d", got.Uncataloged, got.UncatalogedSeconds, files, seconds)
		}
	}
	want(0, 0)
	first := f.file(t, "")
	want(0, 0) // the event can still be on its way
	f.pass(10 * time.Minute)
	second := f.file(t, "")
	f.pass(20 * time.Minute)
	want(2, 30*60)
	f.entries.entries[first] = true
	f.pass(time.Hour)
	want(1, 80*60)
	call(t, f.store.CloseNote, second) // record has closed the note
	want(0, 0)
}

// TestTraceOfFinishedUpload proves that an event that sweep creates belongs to the trace of the sweep, because the
// trace of the upload is no longer known.
func TestTraceOfFinishedUpload(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := newFixture()
	id := f.open(t, time.Hour)
	f.append(t, id)
	f.pass(time.Hour)
	ask := httptest.NewRequest(http.MethodPost, "/", nil)
	ask.Header.Set("Traceparent", trace)
	function.Wrap(newHandler(f.sweeper), time.Minute).ServeHTTP(httptest.NewRecorder(), ask)
	file, err := f.store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := events.Parse(file.Event); err != nil || e.Extensions()["traceparent"] != trace {
		t.Errorf("got event %s and error %v, want traceparent %s in it", e, err, trace)
	}
}

// TestUploadCompletedDuringSweep proves that sweep publishes the event of a resumable upload that becomes a file at the
// moment at which sweep postpones the note of the incomplete upload to its expiration.
func TestUploadCompletedDuringSweep(t *testing.T) {
	f := newFixture()
	id := f.open(t, time.Hour)
	if err := f.store.Notes().Postpone(t.Context(), id, f.clock); err != nil {
		t.Fatal(err)
	}
	f.pass(f.pendingGrace)
	postponed := 0
	f.before(func(method, _ string) error {
		if method == "Postpone" {
			postponed++
		}
		if postponed == 2 { // the first call is for the visit itself
			postponed++
			f.append(t, id)
			_, err := f.store.Finish(t.Context(), id, func(f *content.File) ([]byte, error) { return events.Encode(t.Context(), f.Info) })
			return err
		}
		return nil
	})
	f.post(t, http.StatusOK)
	f.pass(f.pendingGrace)
	f.post(t, http.StatusOK)
	wantIDs(t, "published events", f.publisher.ids, id)
}

// TestFailedCalls proves that the response is an error if any call of a store fails, and that the next sweep completes
// the work.
func TestFailedCalls(t *testing.T) {
	for _, method := range []string{
		"PendingDeletions", "PostponeDeletion", "MarkDeleted", "DeleteEntry", "Delete", "Adopt", "Due", "Postpone", "Get",
		"Finish", "Claim", "Stored", "Discard", "MissingEntries", "CloseNote", "Waiting", "ForgetClaims",
		"ForgetDeletions", "AddKeys",
	} {
		t.Run(method, func(t *testing.T) {
			f := newFixture()
			deleted, cataloged, complete := f.file(t, ""), f.file(t, ""), f.open(t, time.Hour)
			call(t, f.store.MarkDeleted, deleted)
			f.entries.entries[cataloged] = true
			f.append(t, complete)
			f.open(t, -time.Hour)
			f.orphan(t)
			first := f.file(t, "key")
			f.pass(time.Millisecond)
			duplicate := f.file(t, "key")
			f.previous[first], f.previous[duplicate] = true, true
			f.pass(time.Hour)
			failed := false
			f.before(func(of, _ string) error {
				if of != method {
					return nil
				}
				failed = true
				return problem.Unavailable
			})
			f.post(t, http.StatusServiceUnavailable)
			if !failed {
				t.Error("sweep has not called the method")
			}
			f.before(nil)
			for range 2 { // the second sweep publishes the event of the upload that the first one completes
				f.pass(5 * time.Minute)
				f.post(t, http.StatusOK)
			}
			published := slices.Compact(slices.Sorted(slices.Values(f.publisher.ids)))
			wantIDs(t, "published events", published, complete, first)
			wantIDs(t, "files", f.ids(), cataloged, complete, first)
			wantIDs(t, "notes", f.store.NoteIDs(), complete, first)
		})
	}
}

// TestMetrics proves that sweep records its counts, the lengths of the queues and the files without an entry.
func TestMetrics(t *testing.T) {
	told, err := telemetry.New(t.Context(), telemetry.Settings{Function: "sweep", Metrics: true})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture()
	f.file(t, "")
	for range 2 {
		call(t, f.store.MarkDeleted, f.file(t, ""))
	}
	f.pass(2 * time.Minute)
	ask := httptest.NewRequestWithContext(told.In(t.Context()), http.MethodPost, "/", nil)
	newHandler(f.sweeper).ServeHTTP(httptest.NewRecorder(), ask)
	w := httptest.NewRecorder()
	told.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`strongroom_swept_total{function="sweep",what="published"} 1`, `strongroom_swept_total{function="sweep",what="deleted"} 2`,
		`strongroom_swept_total{function="sweep",what="failed"} 0`, `strongroom_queued_events{function="sweep"} 5`,
		`strongroom_dead_letters{function="sweep"} 6`, `strongroom_uncataloged_files{function="sweep"} 1`,
		`strongroom_uncataloged_seconds{function="sweep"} 120`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("got metrics without %s", want)
		}
	}
}

func TestRefused(t *testing.T) {
	for request, want := range map[*http.Request]int{
		httptest.NewRequest(http.MethodGet, "/", nil):      http.StatusMethodNotAllowed,
		httptest.NewRequest(http.MethodPost, "/x", nil):    http.StatusNotFound,
		httptest.NewRequest(http.MethodPost, "/?x=%", nil): http.StatusBadRequest,
	} {
		if w := newFixture().ask(t, request); w.Code != want {
			t.Errorf("%s %s: got %d, want %d", request.Method, request.URL, w.Code, want)
		}
	}
}

// TestLimit proves that sweep does nothing if it cannot record the beginning of the sweep.
func TestLimit(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		retry  string
	}{
		"another sweep has begun": {problem.TooManySweeps.With("try again later").RetryAfter(41 * time.Second), http.StatusTooManyRequests, "41"},
		"MongoDB is unavailable":  {problem.Unavailable.With("try again later"), http.StatusServiceUnavailable, "2"},
	} {
		f := newFixture()
		f.begin = func(context.Context) error { return c.err }
		f.before(func(method, _ string) error { t.Errorf("%s: sweep called %s", name, method); return nil })
		w := f.ask(t, httptest.NewRequest(http.MethodPost, "/", nil))
		if got := w.Header().Get("Retry-After"); w.Code != c.status || got != c.retry {
			t.Errorf("%s: got %d with Retry-After %q, want %d with %s", name, w.Code, got, c.status, c.retry)
		}
	}
}
