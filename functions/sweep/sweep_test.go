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
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// fakeStore keeps what sweep asks for in memory, by the rules of content.Store.
type fakeStore struct {
	notes   []string         // of uploads, by age
	open    map[string]*open // the resumable ones of them
	files   map[string]content.File
	claims  map[string]content.File
	graves  []string
	buried  []string
	broken  map[string]error // what fails, by file
	forgets error
	made    []byte    // the last event of a file that was finished
	now     time.Time // when files are finished
}

// open is a resumable upload; err is what keeps it from being finished.
type open struct {
	expiresAt time.Time
	err       error
}

// page returns the ids after one, as the pages of the real store are.
func page(ids []string, after string, limit int) []string {
	i, found := slices.BinarySearch(ids, after)
	if found {
		i++
	}
	return slices.Clone(ids[i:min(i+limit, len(ids))])
}

func (s *fakeStore) Unfinished(_ context.Context, before time.Time, after string, limit int) ([]content.Unfinished, error) {
	var found []content.Unfinished
	for _, id := range page(s.notes, after, limit) {
		if time.Unix(uuid.MustParse(id).Time().UnixTime()).Before(before) {
			u := content.Unfinished{ID: id}
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
	e, err := events.NewFileStored(events.FileStored{ID: id, Owner: "ada", Name: "x", Size: 1, SHA256: strings.Repeat("0a", 32),
		ContentType: "text/plain", StoredAt: f.StoredAt})
	if err != nil {
		return nil, err
	}
	return e.MarshalJSON()
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

func (s *fakeStore) Finish(_ context.Context, id string, finish func(*content.File) ([]byte, error)) (content.File, []byte, error) {
	if err := s.open[id].err; err != nil {
		return content.File{}, nil, err
	}
	f := content.File{ID: id, Owner: "ada", Name: "x", Size: 1, SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: s.now}
	event, err := finish(&f)
	s.files[id], s.made = f, event
	return f, event, err
}

func (s *fakeStore) Bury(_ context.Context, id string) error {
	s.buried = append(s.buried, id)
	return nil
}

func (s *fakeStore) Graves(_ context.Context, _ time.Time, after string, limit int) ([]string, error) {
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

func (s *fakeStore) ForgetClaims(context.Context, time.Time) (int64, error) { return 3, s.forgets }
func (s *fakeStore) Unearth(context.Context, time.Time) (int64, error)      { return 4, nil }

// fakeCatalogue notes whose entries were deleted.
type fakeCatalogue struct{ deleted []string }

func (c *fakeCatalogue) Delete(_ context.Context, id string) error {
	c.deleted = append(c.deleted, id)
	return nil
}

// fakePublisher notes what was published, or fails.
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

// api holds what sweep answers against docs/openapi.yaml.
var api = contract.Of("sweep")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// fixture is a sweeper with fakes around it.
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
	f.sweeper = &sweeper{files: f.store, catalogue: f.entries, publisher: f.publisher,
		lengths:      func(context.Context) (events.Depths, error) { return events.Depths{Waiting: 5, Dead: 6}, nil },
		pendingGrace: time.Minute, orphanGrace: time.Hour, now: func() time.Time { return time.Now().Add(30 * time.Minute) }}
	return f
}

// file adds an unconfirmed file and returns its id.
func (f *fixture) file(key string) string {
	id := uuid.Must(uuid.NewV7()).String()
	f.store.notes = append(f.store.notes, id)
	f.store.files[id] = content.File{ID: id, Key: key, StoredAt: time.Now()}
	return id
}

// ask returns what sweep answers, as function.Main serves it.
func (f *fixture) ask(t *testing.T, request *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	api.Handler(t, function.Wrap(newHandler(f.sweeper), time.Minute)).ServeHTTP(w, request)
	return w
}

// post has a sweep done.
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
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(f.publisher.ids, want) || len(f.store.notes) != 0 {
		t.Errorf("got %d events, %d unconfirmed files", len(f.publisher.ids), len(f.store.notes))
	}
	if !slices.Equal(f.entries.deleted, []string{"a", "b"}) {
		t.Errorf("deleted the entries %q", f.entries.deleted)
	}
}

// What counts for a file is when it was committed, not when its upload began: until the grace is over, upload may take
// it back.
func TestSweepLeavesWhatHasJustEnded(t *testing.T) {
	f := newFixture()
	id := f.file("key")
	ended := f.store.files[id]
	ended.StoredAt = f.now().Add(-f.pendingGrace + time.Second)
	f.store.files[id] = ended
	if got := f.post(t, http.StatusOK); got.Published != 0 || len(f.store.notes) != 1 || len(f.store.claims) != 0 {
		t.Errorf("within the grace: got %+v, %d notes and %d claims", got, len(f.store.notes), len(f.store.claims))
	}
	f.pendingGrace -= 2 * time.Second
	if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.store.notes) != 0 {
		t.Errorf("after the grace: got %+v", got)
	}
}

func TestSweepDuplicate(t *testing.T) {
	f := newFixture()
	first, second := f.file("key"), f.file("key")
	if got := f.post(t, http.StatusOK); got.Published != 1 || got.Duplicates != 1 {
		t.Errorf("got %+v", got)
	}
	if _, found := f.store.files[first]; !found || len(f.store.files) != 1 {
		t.Errorf("got %d files, want the first", len(f.store.files))
	}
	// Its event may be out.
	if !slices.Equal(f.store.buried, []string{second}) || !slices.Equal(f.entries.deleted, []string{second}) {
		t.Errorf("buried %q, deleted the entries %q, want %q both", f.store.buried, f.entries.deleted, second)
	}
}

func TestSweepOrphans(t *testing.T) {
	f := newFixture()
	delete(f.store.files, f.file(""))
	if got := f.post(t, http.StatusOK); got.Discarded != 0 || len(f.store.notes) != 1 {
		t.Errorf("within the grace: got %+v", got)
	}
	f.orphanGrace = 29 * time.Minute
	if got := f.post(t, http.StatusOK); got.Discarded != 1 || len(f.store.notes) != 0 {
		t.Errorf("after the grace: got %+v", got)
	}
}

// An upload in many requests is left to its client until it expires, and to requests that began before for a grace.
func TestSweepResumable(t *testing.T) {
	f := newFixture()
	now := f.now()
	f.sweeper.now = func() time.Time { return now }
	f.store.now = now
	f.orphanGrace = 15 * time.Minute // all uploads are half an hour old
	lacks := problem.Conflict.With("bytes are lacking")
	for name, c := range map[string]struct {
		expired time.Duration // ago
		err     error
		want    counts
		notes   int
	}{
		"on its way":                {-time.Hour, lacks, counts{}, 1},
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
				t.Errorf("got %+v, %d notes and %d events, want %+v, %d and none", got, len(f.store.notes), len(f.publisher.ids), want, c.notes)
			}
			if c.err != nil {
				return
			}
			// What was finished is published when its grace is over, unless upload does.
			now = now.Add(f.pendingGrace)
			if got := f.post(t, http.StatusOK); got.Published != 1 || len(f.store.notes) != 0 || !slices.Equal(f.publisher.ids, []string{id}) {
				t.Errorf("afterwards: got %+v and the events %q", got, f.publisher.ids)
			}
			now = now.Add(-f.pendingGrace)
		})
	}
	f.store.notes = nil
	f.store.open[f.file("")] = &open{now, problem.Unavailable}
	clear(f.store.files)
	f.post(t, http.StatusServiceUnavailable)
}

// An event that sweep makes is part of the sweep's trace: there is no other left.
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
		t.Errorf("got the event %s (%v), want it in the trace %s", f.store.made, err, trace)
	}
}

func TestSweepGoesOn(t *testing.T) {
	f := newFixture()
	broken, whole := f.file(""), f.file("")
	f.store.broken[broken] = problem.Unavailable
	f.store.graves = []string{"a", "b"}
	f.store.broken["a"] = errors.New("a is broken")
	f.store.forgets = errors.New("no")
	f.post(t, http.StatusInternalServerError) // what came first
	if !slices.Equal(f.publisher.ids, []string{whole}) || !slices.Equal(f.store.graves, []string{"a"}) || !slices.Equal(f.store.notes, []string{broken}) {
		t.Errorf("published %q, graves %q, notes %q", f.publisher.ids, f.store.graves, f.store.notes)
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
			t.Errorf("the metrics lack %s", want)
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
		t.Errorf("got %d attempts, %d unconfirmed files, want 1 and 3", f.publisher.attempts, len(f.store.notes))
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
