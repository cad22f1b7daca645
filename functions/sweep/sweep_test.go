package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// fakeCatalog records the IDs of deleted entries.
type fakeCatalog struct{ deleted []string }

func (c *fakeCatalog) Delete(_ context.Context, id string) error {
	c.deleted = append(c.deleted, id)
	return nil
}

// fakePublisher records the IDs of published events, or fails with err.
type fakePublisher struct {
	events.Publisher
	err      error
	attempts int
	ids      []string
}

func (p *fakePublisher) Publish(_ context.Context, e event.Event) error {
	p.attempts++
	if p.err != nil {
		return p.err
	}
	p.ids = append(p.ids, e.ID())
	return nil
}

// api checks the responses of sweep against docs/openapi.yaml.
var api = contract.Of("sweep")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// fixture is a sweeper with its fakes. The sweeper's clock is half an hour ahead of the store's clock, so all uploads
// are half an hour old.
type fixture struct {
	*sweeper
	store     *contenttest.Memory
	entries   *fakeCatalog
	publisher *fakePublisher
}

func newFixture() *fixture {
	f := &fixture{store: contenttest.New(), entries: &fakeCatalog{}, publisher: &fakePublisher{}}
	now := time.Now().Add(30 * time.Minute)
	f.sweeper = &sweeper{files: f.store, entries: f.entries, publisher: f.publisher,
		queueDepths:  func(context.Context) (events.Depths, error) { return events.Depths{Waiting: 5, Dead: 6}, nil },
		pendingGrace: time.Minute, orphanGrace: time.Hour, now: func() time.Time { return now }}
	return f
}

// at calls do while the store's clock shows a time before the time of the sweeper.
func (f *fixture) at(t *testing.T, age time.Duration, do func() error) {
	t.Helper()
	f.store.Now = func() time.Time { return f.now().Add(-age) }
	defer func() { f.store.Now = nil }()
	if err := do(); err != nil {
		t.Fatal(err)
	}
}

// file adds an unconfirmed file and returns its ID.
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

// open creates a resumable upload of one byte, which expires after the time of the sweeper plus left.
func (f *fixture) open(t *testing.T, left time.Duration) string {
	t.Helper()
	u, err := f.store.Create(t.Context(), content.Upload{Owner: "ada", Name: "x", ContentType: "text/plain", Length: 1, ExpiresAt: f.now().Add(left)})
	if err != nil {
		t.Fatal(err)
	}
	return u.ID
}

// unfinished returns the IDs of all uploads that have an upload record.
func (f *fixture) unfinished(t *testing.T) (ids []string) {
	t.Helper()
	found, err := f.store.Unfinished(t.Context(), f.now(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range found {
		ids = append(ids, u.ID)
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

func TestSweepInPages(t *testing.T) {
	f := newFixture()
	var want []string
	for range 2*pageSize + 1 {
		want = append(want, f.file(t, ""))
	}
	for _, id := range []string{"a", "b"} {
		f.at(t, time.Hour, func() error { return f.store.MarkDeleted(t.Context(), id) })
	}
	for _, id := range []string{"c", "d", "e"} {
		f.at(t, claimLife+time.Second, func() error { _, err := f.store.Claim(t.Context(), id, content.File{}); return err })
		f.at(t, tombstoneLife+time.Second, func() error { return f.store.MarkDeleted(t.Context(), id) })
		f.at(t, 0, func() error { return f.store.Delete(t.Context(), id) })
	}
	f.at(t, claimLife-time.Second, func() error { _, err := f.store.Claim(t.Context(), "f", content.File{}); return err })
	got := f.post(t, http.StatusOK)
	if got != (counts{Published: 2*pageSize + 1, Deleted: 2, ForgottenClaims: 3, ForgottenTombstones: 3, Waiting: 5, DeadLetters: 6}) {
		t.Errorf("got %+v, want all events published, both deletions completed, and the old claims and tombstones deleted", got)
	}
	if left := f.unfinished(t); !slices.Equal(f.publisher.ids, want) || len(left) != 0 {
		t.Errorf("got %d events and %d unconfirmed files, want %d and none", len(f.publisher.ids), len(left), len(want))
	}
	if !slices.Equal(f.entries.deleted, []string{"a", "b"}) {
		t.Errorf("got deleted entries %q, want a and b", f.entries.deleted)
	}
}

// The pendingGrace of a file begins when the file is committed, not when its upload begins. Until pendingGrace has
// passed, upload can still delete the file.
func TestSweepLeavesWhatHasJustEnded(t *testing.T) {
	f := newFixture()
	f.at(t, f.pendingGrace-time.Second, func() error { f.file(t, "key"); return nil })
	got := f.post(t, http.StatusOK)
	if _, claimed, _ := f.store.Claimed(t.Context(), "key"); got.Published != 0 || len(f.unfinished(t)) != 1 || claimed {
		t.Errorf("within pendingGrace: got %+v, %d uploads and claimed %t, want only 1 upload", got, len(f.unfinished(t)), claimed)
	}
	f.pendingGrace -= 2 * time.Second
	if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.unfinished(t)) != 0 {
		t.Errorf("after pendingGrace: got %+v, want one published event", got)
	}
}

func TestSweepDuplicate(t *testing.T) {
	f := newFixture()
	first, second := f.file(t, "key"), f.file(t, "key")
	if got := f.post(t, http.StatusOK); got.Published != 1 || got.Duplicates != 1 {
		t.Errorf("got %+v, want one published event and one duplicate", got)
	}
	if files := f.store.Files(); len(files) != 1 || files[0].ID != first {
		t.Errorf("got %d files, want only the first file", len(files))
	}
	// The event of the duplicate may have been published, so sweep also writes a tombstone and deletes the entry.
	deleted, err := f.store.IsDeleted(t.Context(), second)
	if err != nil || !deleted || !slices.Equal(f.entries.deleted, []string{second}) {
		t.Errorf("got IsDeleted %t (%v) and deleted entries %q, want the file %s", deleted, err, f.entries.deleted, second)
	}
}

func TestSweepOrphans(t *testing.T) {
	f := newFixture()
	// The upload fails, and its upload record remains, because the store is unavailable.
	f.store.Before = contenttest.Fail(problem.Unavailable, "Discard")
	if _, err := f.store.Put(t.Context(), content.File{}, iotest.ErrReader(io.ErrUnexpectedEOF), nil); err == nil {
		t.Fatal("got no error from Put, want one")
	}
	f.store.Before = nil
	if got := f.post(t, http.StatusOK); got.Discarded != 0 || len(f.unfinished(t)) != 1 {
		t.Errorf("within orphanGrace: got %+v, want no discarded upload", got)
	}
	f.orphanGrace = 29 * time.Minute
	if got := f.post(t, http.StatusOK); got.Discarded != 1 || len(f.unfinished(t)) != 0 {
		t.Errorf("after orphanGrace: got %+v, want one discarded upload", got)
	}
}

// Sweep keeps an incomplete resumable upload until it expires, and then for orphanGrace. In that time, a request that
// began before the upload expired can still run.
func TestSweepResumable(t *testing.T) {
	for name, c := range map[string]struct {
		expired    time.Duration // time since it expired or was terminated
		terminated bool
		want       counts
		uploads    int
	}{
		"not expired":     {-time.Hour, false, counts{}, 1},
		"just expired":    {time.Minute, false, counts{}, 1},
		"expired":         {16 * time.Minute, false, counts{Discarded: 1}, 0},
		"just terminated": {time.Minute, true, counts{}, 1},
		"terminated":      {16 * time.Minute, true, counts{Discarded: 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			f.orphanGrace = 15 * time.Minute
			id := f.open(t, -c.expired)
			if c.terminated {
				f.at(t, c.expired, func() error { return f.store.Terminate(t.Context(), id) })
			}
			c.want.Waiting, c.want.DeadLetters = 5, 6
			if got := f.post(t, http.StatusOK); got != c.want || len(f.unfinished(t)) != c.uploads || len(f.publisher.ids) != 0 {
				t.Errorf("got %+v, %d uploads and %d events, want %+v, %d uploads and no events", got, len(f.unfinished(t)), len(f.publisher.ids), c.want, c.uploads)
			}
		})
	}
	for name, left := range map[string]time.Duration{"complete": time.Hour, "complete and long expired": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			id := f.open(t, left)
			f.append(t, id)
			f.store.Now = f.now
			if got := f.post(t, http.StatusOK); got.Finished != 1 || got.Published != 0 || len(f.unfinished(t)) != 1 || len(f.publisher.ids) != 0 {
				t.Errorf("got %+v, %d uploads and %d events, want a file and no event", got, len(f.unfinished(t)), len(f.publisher.ids))
			}
			// Sweep publishes the event of the file when pendingGrace has passed, unless upload has published it.
			now := f.now().Add(f.pendingGrace)
			f.now = func() time.Time { return now }
			if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.unfinished(t)) != 0 || !slices.Equal(f.publisher.ids, []string{id}) {
				t.Errorf("after pendingGrace: got %+v and events %q, want one event", got, f.publisher.ids)
			}
		})
	}
	f := newFixture()
	f.open(t, 0)
	f.store.Before = contenttest.Fail(problem.Unavailable, "Finish")
	f.post(t, http.StatusServiceUnavailable)
}

// append adds the only byte of an upload from open.
func (f *fixture) append(t *testing.T, id string) {
	t.Helper()
	if _, err := f.store.Append(t.Context(), id, 0, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
}

// An event that sweep creates belongs to the trace of the sweep, because the trace of the upload is no longer known.
func TestSweepFinishesInItsTrace(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := newFixture()
	id := f.open(t, time.Hour)
	f.append(t, id)
	ask := httptest.NewRequest(http.MethodPost, "/", nil)
	ask.Header.Set("Traceparent", trace)
	function.Wrap(newHandler(f.sweeper), time.Minute).ServeHTTP(httptest.NewRecorder(), ask)
	if e, err := events.Load(t.Context(), f.store, id); err != nil || e.Extensions()["traceparent"] != trace {
		t.Errorf("got event %s (%v), want traceparent %s in it", e, err, trace)
	}
}

func TestSweepGoesOn(t *testing.T) {
	f := newFixture()
	broken, whole := f.file(t, ""), f.file(t, "")
	for _, id := range []string{"a", "b"} {
		f.at(t, time.Hour, func() error { return f.store.MarkDeleted(t.Context(), id) })
	}
	f.store.Before = func(method, id string) error {
		switch {
		case method == "Get" && id == broken:
			return problem.Unavailable
		case method == "Delete" && id == "a":
			return errors.New("a is broken")
		case method == "ForgetClaims":
			return errors.New("no")
		}
		return nil
	}
	f.post(t, http.StatusInternalServerError) // the first error, of a
	pending, err := f.store.PendingDeletions(t.Context(), f.now(), "", 10)
	if err != nil || !slices.Equal(f.publisher.ids, []string{whole}) || !slices.Equal(pending, []string{"a"}) || !slices.Equal(f.unfinished(t), []string{broken}) {
		t.Errorf("got published events %q, deletions %q (%v) and uploads %q, want only the broken ones to remain", f.publisher.ids, pending, err, f.unfinished(t))
	}
}

// If a call of the store fails, the response is an error, and the next sweep completes the work.
func TestSweepAfterAFailedCall(t *testing.T) {
	for name, method := range map[string]string{
		"uploads cannot be listed":     "Unfinished",
		"deletions cannot be listed":   "PendingDeletions",
		"claim cannot be recorded":     "Claim",
		"event cannot be read":         "Event",
		"event cannot be confirmed":    "Confirm",
		"duplicate cannot be marked":   "MarkDeleted",
		"duplicate cannot be deleted":  "Delete",
		"upload cannot be discarded":   "Discard",
		"tombstones cannot be deleted": "ForgetDeletions",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			first := f.file(t, "key")
			f.file(t, "key") // a duplicate of the first file
			f.open(t, -2*f.orphanGrace)
			f.store.Before = contenttest.Fail(problem.Unavailable, method)
			f.post(t, http.StatusServiceUnavailable)
			f.store.Before = nil
			f.post(t, http.StatusOK)
			if ids := slices.Compact(f.publisher.ids); !slices.Equal(ids, []string{first}) {
				t.Errorf("got events of the files %q, want only %s", ids, first)
			}
			if files, left := f.store.Files(), f.unfinished(t); len(files) != 1 || files[0].ID != first || len(left) != 0 {
				t.Errorf("got %d files and uploads %q, want only the first file and no uploads", len(files), left)
			}
		})
	}
}

func TestSweepMetrics(t *testing.T) {
	told, err := telemetry.New(t.Context(), telemetry.Settings{Function: "sweep", Metrics: true})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture()
	f.file(t, "")
	for _, id := range []string{"a", "b"} {
		f.at(t, time.Hour, func() error { return f.store.MarkDeleted(t.Context(), id) })
	}
	ask := httptest.NewRequestWithContext(told.In(t.Context()), http.MethodPost, "/", nil)
	newHandler(f.sweeper).ServeHTTP(httptest.NewRecorder(), ask)
	w := httptest.NewRecorder()
	told.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`strongroom_swept_total{function="sweep",what="published"} 1`, `strongroom_swept_total{function="sweep",what="deleted"} 2`,
		`strongroom_swept_total{function="sweep",what="failed"} 0`, `strongroom_queued_events{function="sweep"} 5`, `strongroom_dead_letters{function="sweep"} 6`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("got metrics without %s", want)
		}
	}
}

func TestSweepBrokerAway(t *testing.T) {
	f := newFixture()
	for range 3 {
		f.file(t, "")
	}
	f.publisher.err = problem.Unavailable
	f.post(t, http.StatusServiceUnavailable)
	if left := f.unfinished(t); f.publisher.attempts != 1 || len(left) != 3 {
		t.Errorf("got %d attempts and %d unconfirmed files, want 1 and 3", f.publisher.attempts, len(left))
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
