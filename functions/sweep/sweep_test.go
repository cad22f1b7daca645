package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// fakeStore is an in-memory store that follows the rules of content.Store.
type fakeStore struct {
	notes   []string         // IDs of unconfirmed uploads, oldest first
	open    map[string]*open // the resumable uploads among them
	files   map[string]content.File
	claims  map[string]content.File
	graves  []string
	buried  []string
	broken  map[string]error // errors of Get and Delete, by file
	forgets error
	made    []byte    // event of the last file that Finish committed
	now     time.Time // StoredAt of the files that Finish commits
}

// open is a resumable upload. err is the error of Finish.
type open struct {
	expiresAt time.Time
	err       error
}

// page returns at most limit of the sorted IDs after the ID after, as the store does.
func page(ids []string, after string, limit int) []string {
	i, found := slices.BinarySearch(ids, after)
	if found {
		i++
	}
	return slices.Clone(ids[i:min(i+limit, len(ids))])
}

func (s *fakeStore) Unfinished(_ context.Context, before time.Time, after string, limit int) ([]content.Pending, error) {
	var found []content.Pending
	for _, id := range page(s.notes, after, limit) {
		if time.Unix(uuid.MustParse(id).Time().UnixTime()).Before(before) {
			u := content.Pending{ID: id}
			if o := s.open[id]; o != nil {
				u.Resumable, u.ExpiresAt = true, o.expiresAt
			}
			found = append(found, u)
		}
	}
	return found, nil
}

func (s *fakeStore) Get(_ context.Context, id string) (content.File, error) {
	f, found := s.files[id]
	if !found {
		return f, problem.NotFound
	}
	return f, s.broken[id]
}

func (s *fakeStore) Event(_ context.Context, id string) ([]byte, error) {
	f := s.files[id]
	return events.Encode(context.Background(), file.Info{ID: id, Owner: "ada", Name: "x", Size: 1, SHA256: strings.Repeat("0a", 32),
		ContentType: "text/plain", StoredAt: f.StoredAt})
}

func (s *fakeStore) Claim(_ context.Context, key string, f content.File) (content.File, error) {
	if first, found := s.claims[key]; found {
		return first, nil
	}
	s.claims[key] = f
	return f, nil
}

func (s *fakeStore) Confirm(_ context.Context, id string) error {
	s.notes = slices.DeleteFunc(s.notes, func(note string) bool { return note == id })
	return nil
}

func (s *fakeStore) Discard(ctx context.Context, id string) error { return s.Confirm(ctx, id) }

func (s *fakeStore) Finish(_ context.Context, id string, finish func(*content.File) ([]byte, error)) (content.File, error) {
	if err := s.open[id].err; err != nil {
		return content.File{}, err
	}
	f := content.File{Info: file.Info{ID: id, Owner: "ada", Name: "x", Size: 1, SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: s.now}}
	event, err := finish(&f)
	s.files[id], s.made = f, event
	return f, err
}

func (s *fakeStore) MarkDeleted(_ context.Context, id string) error {
	s.buried = append(s.buried, id)
	return nil
}

func (s *fakeStore) PendingDeletions(_ context.Context, _ time.Time, after string, limit int) ([]string, error) {
	return page(s.graves, after, limit), nil
}

func (s *fakeStore) Delete(ctx context.Context, id string) error {
	if err := s.broken[id]; err != nil {
		return err
	}
	delete(s.files, id)
	s.graves = slices.DeleteFunc(s.graves, func(grave string) bool { return grave == id })
	return s.Confirm(ctx, id)
}

func (s *fakeStore) ForgetClaims(context.Context, time.Time) (int64, error)    { return 3, s.forgets }
func (s *fakeStore) ForgetDeletions(context.Context, time.Time) (int64, error) { return 4, nil }

// fakeCatalogue records the IDs of deleted entries.
type fakeCatalogue struct{ deleted []string }

func (c *fakeCatalogue) Delete(_ context.Context, id string) error {
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

// fixture is a sweeper with its fakes.
type fixture struct {
	*sweeper
	store     *fakeStore
	entries   *fakeCatalogue
	publisher *fakePublisher
}

func newFixture() *fixture {
	f := &fixture{
		store:     &fakeStore{files: map[string]content.File{}, open: map[string]*open{}, claims: map[string]content.File{}, broken: map[string]error{}},
		entries:   &fakeCatalogue{},
		publisher: &fakePublisher{},
	}
	f.sweeper = &sweeper{files: f.store, entries: f.entries, publisher: f.publisher,
		queueDepths:  func(context.Context) (events.Depths, error) { return events.Depths{Waiting: 5, Dead: 6}, nil },
		pendingGrace: time.Minute, orphanGrace: time.Hour, now: func() time.Time { return time.Now().Add(30 * time.Minute) }}
	return f
}

// file adds an unconfirmed file and returns its ID.
func (f *fixture) file(key string) string {
	id := uuid.Must(uuid.NewV7()).String()
	f.store.notes = append(f.store.notes, id)
	f.store.files[id] = content.File{Info: file.Info{ID: id, StoredAt: time.Now()}, Key: key}
	return id
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
		want = append(want, f.file(""))
	}
	f.store.graves = []string{"a", "b"}
	got := f.post(t, http.StatusOK)
	if got != (counts{Published: 2*pageSize + 1, Deleted: 2, ForgottenClaims: 3, ForgottenTombstones: 4, Waiting: 5, DeadLetters: 6}) {
		t.Errorf("got %+v, want all events published and both deletions completed", got)
	}
	if !slices.Equal(f.publisher.ids, want) || len(f.store.notes) != 0 {
		t.Errorf("got %d events and %d unconfirmed files, want %d and none", len(f.publisher.ids), len(f.store.notes), len(want))
	}
	if !slices.Equal(f.entries.deleted, []string{"a", "b"}) {
		t.Errorf("got deleted entries %q, want a and b", f.entries.deleted)
	}
}

// The pendingGrace of a file begins when the file is committed, not when its upload begins. Until pendingGrace has
// passed, upload can still delete the file.
func TestSweepLeavesWhatHasJustEnded(t *testing.T) {
	f := newFixture()
	id := f.file("key")
	ended := f.store.files[id]
	ended.StoredAt = f.now().Add(-f.pendingGrace + time.Second)
	f.store.files[id] = ended
	if got := f.post(t, http.StatusOK); got.Published != 0 || len(f.store.notes) != 1 || len(f.store.claims) != 0 {
		t.Errorf("within pendingGrace: got %+v, %d notes and %d claims, want 1 note and nothing else", got, len(f.store.notes), len(f.store.claims))
	}
	f.pendingGrace -= 2 * time.Second
	if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.store.notes) != 0 {
		t.Errorf("after pendingGrace: got %+v, want one published event", got)
	}
}

func TestSweepDuplicate(t *testing.T) {
	f := newFixture()
	first, second := f.file("key"), f.file("key")
	if got := f.post(t, http.StatusOK); got.Published != 1 || got.Duplicates != 1 {
		t.Errorf("got %+v, want one published event and one duplicate", got)
	}
	if _, found := f.store.files[first]; !found || len(f.store.files) != 1 {
		t.Errorf("got %d files, want only the first file", len(f.store.files))
	}
	// The event of the duplicate may have been published, so sweep also writes a tombstone and deletes the entry.
	if !slices.Equal(f.store.buried, []string{second}) || !slices.Equal(f.entries.deleted, []string{second}) {
		t.Errorf("got tombstones %q and deleted entries %q, want %q in both", f.store.buried, f.entries.deleted, second)
	}
}

func TestSweepOrphans(t *testing.T) {
	f := newFixture()
	delete(f.store.files, f.file(""))
	if got := f.post(t, http.StatusOK); got.Discarded != 0 || len(f.store.notes) != 1 {
		t.Errorf("within orphanGrace: got %+v, want no discarded upload", got)
	}
	f.orphanGrace = 29 * time.Minute
	if got := f.post(t, http.StatusOK); got.Discarded != 1 || len(f.store.notes) != 0 {
		t.Errorf("after orphanGrace: got %+v, want one discarded upload", got)
	}
}

// Sweep keeps an incomplete resumable upload until it expires, and then for orphanGrace. In that time, a request that
// began before the upload expired can still run.
func TestSweepResumable(t *testing.T) {
	f := newFixture()
	now := f.now()
	f.sweeper.now = func() time.Time { return now }
	f.store.now = now
	f.orphanGrace = 15 * time.Minute // all uploads are half an hour old
	lacks := problem.Conflict.With("bytes are missing")
	for name, c := range map[string]struct {
		expired time.Duration // time since it expired
		err     error
		want    counts
		notes   int
	}{
		"not expired":               {-time.Hour, lacks, counts{}, 1},
		"just expired":              {time.Minute, lacks, counts{}, 1},
		"expired":                   {16 * time.Minute, lacks, counts{Discarded: 1}, 0},
		"just terminated":           {time.Minute, problem.NotFound.With("terminated"), counts{}, 1},
		"terminated":                {16 * time.Minute, problem.NotFound.With("terminated"), counts{Discarded: 1}, 0},
		"complete":                  {-time.Hour, nil, counts{Finished: 1}, 1},
		"complete and long expired": {time.Hour, nil, counts{Finished: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f.store.notes, f.publisher.ids = nil, nil
			id := f.file("")
			delete(f.store.files, id)
			f.store.open[id] = &open{now.Add(-c.expired), c.err}
			want := c.want
			want.ForgottenClaims, want.ForgottenTombstones, want.Waiting, want.DeadLetters = 3, 4, 5, 6
			if got := f.post(t, http.StatusOK); got != want || len(f.store.notes) != c.notes || len(f.publisher.ids) != 0 {
				t.Errorf("got %+v, %d notes and %d events, want %+v, %d notes and no events", got, len(f.store.notes), len(f.publisher.ids), want, c.notes)
			}
			if c.err != nil {
				return
			}
			// Sweep publishes the event of the file when pendingGrace has passed, unless upload has published it.
			now = now.Add(f.pendingGrace)
			if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.store.notes) != 0 || !slices.Equal(f.publisher.ids, []string{id}) {
				t.Errorf("after pendingGrace: got %+v and events %q, want one event", got, f.publisher.ids)
			}
			now = now.Add(-f.pendingGrace)
		})
	}
	f.store.notes = nil
	f.store.open[f.file("")] = &open{now, problem.Unavailable}
	clear(f.store.files)
	f.post(t, http.StatusServiceUnavailable)
}

// An event that sweep creates belongs to the trace of the sweep, because the trace of the upload is no longer known.
func TestSweepFinishesInItsTrace(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := newFixture()
	f.store.now = f.now()
	id := f.file("")
	delete(f.store.files, id)
	f.store.open[id] = &open{f.now().Add(time.Hour), nil}
	ask := httptest.NewRequest(http.MethodPost, "/", nil)
	ask.Header.Set("Traceparent", trace)
	function.Wrap(newHandler(f.sweeper), time.Minute).ServeHTTP(httptest.NewRecorder(), ask)
	var e event.Event
	if err := e.UnmarshalJSON(f.store.made); err != nil || e.Extensions()["traceparent"] != trace {
		t.Errorf("got event %s (%v), want traceparent %s in it", f.store.made, err, trace)
	}
}

func TestSweepGoesOn(t *testing.T) {
	f := newFixture()
	broken, whole := f.file(""), f.file("")
	f.store.broken[broken] = problem.Unavailable
	f.store.graves = []string{"a", "b"}
	f.store.broken["a"] = errors.New("a is broken")
	f.store.forgets = errors.New("no")
	f.post(t, http.StatusInternalServerError) // the first error, of a
	if !slices.Equal(f.publisher.ids, []string{whole}) || !slices.Equal(f.store.graves, []string{"a"}) || !slices.Equal(f.store.notes, []string{broken}) {
		t.Errorf("got published events %q, deletions %q and notes %q, want only the broken ones to remain", f.publisher.ids, f.store.graves, f.store.notes)
	}
}

func TestSweepMetrics(t *testing.T) {
	told, err := telemetry.New(t.Context(), telemetry.Settings{Function: "sweep", Metrics: true})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture()
	f.file("")
	f.store.graves = []string{"a", "b"}
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
		f.file("")
	}
	f.publisher.err = problem.Unavailable
	f.post(t, http.StatusServiceUnavailable)
	if f.publisher.attempts != 1 || len(f.store.notes) != 3 {
		t.Errorf("got %d attempts and %d unconfirmed files, want 1 and 3", f.publisher.attempts, len(f.store.notes))
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
