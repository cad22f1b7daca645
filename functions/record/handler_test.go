package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strongroom-dev/strongroom/shared/catalog"
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

const fileID = "0190a5c2-7b1e-7c3d-9e4f-0123456789ab"

var (
	storedAt     = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	cataloguedAt = time.Date(2026, 3, 1, 12, 30, 1, 0, time.UTC)
)

// fakeCatalog keeps entries and tombstones in memory by ID. Its calls fail if the functions in its fields return
// errors.
type fakeCatalog struct {
	fail, failIsDeleted, failDelete func() error // errors of Insert, IsDeleted and Delete; nil for none

	mu      sync.Mutex
	entries map[string]catalog.Entry
	inserts int
	deleted map[string]bool
}

func (f *fakeCatalog) Insert(ctx context.Context, e catalog.Entry) (bool, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return false, errors.New("the context has no deadline")
	}
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return false, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inserts++
	if _, there := f.entries[e.ID]; there {
		return false, nil
	}
	if f.entries == nil {
		f.entries = map[string]catalog.Entry{}
	}
	f.entries[e.ID] = e
	return true, nil
}

// IsDeleted reports whether f.deleted contains id.
func (f *fakeCatalog) IsDeleted(ctx context.Context, id string) (bool, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return false, errors.New("the context has no deadline")
	}
	if f.failIsDeleted != nil {
		if err := f.failIsDeleted(); err != nil {
			return false, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deleted[id], nil
}

// Delete removes an entry.
func (f *fakeCatalog) Delete(ctx context.Context, id string) error {
	if f.failDelete != nil {
		if err := f.failDelete(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, id)
	return nil
}

// serve returns the response of record to r, with all middleware of a running function.
func serve(t testing.TB, c *fakeCatalog, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	api.Handler(t, function.Wrap(newHandler(c, c, func() time.Time { return cataloguedAt }), time.Minute)).ServeHTTP(w, r)
	return w.Result()
}

// event returns the body of a valid event in structured mode.
func event(t testing.TB) string {
	t.Helper()
	e, err := events.NewFileStored(t.Context(), file.Info{
		ID: fileID, Owner: "0190a5c2-0000-7000-8000-000000000001", Name: "a.txt", Size: 1,
		SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: storedAt,
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func newRequest(method, target, contentType string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

const structured = "application/cloudevents+json"

func TestRecord(t *testing.T) {
	c := &fakeCatalog{}
	for _, delivery := range []string{"first", "second"} {
		res := serve(t, c, newRequest(http.MethodPost, "/", structured, strings.NewReader(event(t))))
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusNoContent || len(body) != 0 || err != nil {
			t.Errorf("%s delivery: got %d with body %q (%v), want 204 without a body", delivery, res.StatusCode, body, err)
		}
	}
	want := map[string]catalog.Entry{fileID: {
		CataloguedAt: cataloguedAt,
		Info: file.Info{ID: fileID, Owner: "0190a5c2-0000-7000-8000-000000000001", Name: "a.txt", Size: 1,
			SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: storedAt},
	}}
	if diff := cmp.Diff(want, c.entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestBinaryMode(t *testing.T) {
	var e struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal([]byte(event(t)), &e); err != nil {
		t.Fatal(err)
	}
	// A Knative Broker delivers events in binary mode, to the path in the trigger.
	r := newRequest(http.MethodPost, "/from/a/broker", "application/json", strings.NewReader(string(e.Data)))
	for name, value := range map[string]string{
		"Specversion": "1.0", "Type": events.TypeFileStored, "Source": events.SourceUpload, "Id": fileID,
	} {
		r.Header.Set("Ce-"+name, value)
	}
	c := &fakeCatalog{}
	if res := serve(t, c, r); res.StatusCode != http.StatusNoContent || len(c.entries) != 1 {
		t.Errorf("got %d and %d entries, want 204 and 1", res.StatusCode, len(c.entries))
	}
}

// TestStatuses checks the status for each kind of request and of failure.
func TestStatuses(t *testing.T) {
	good := event(t)
	failing := func(err error) *fakeCatalog { return &fakeCatalog{fail: func() error { return err }} }
	for _, c := range []struct {
		name      string
		catalogue *fakeCatalog
		request   *http.Request
		want      int
	}{
		// Invalid events: every delivery fails in the same way.
		{"nothing", nil, newRequest("POST", "/", "", nil), 422},
		{"not an event", nil, newRequest("POST", "/", "application/json", strings.NewReader(`{}`)), 422},
		{"broken JSON", nil, newRequest("POST", "/", structured, strings.NewReader(good[1:])), 422},
		{"another type", nil, newRequest("POST", "/", structured, strings.NewReader(strings.Replace(good, "stored.v1\"", "stored.v2\"", 1))), 422},
		{"a member missing", nil, newRequest("POST", "/", structured, strings.NewReader(strings.Replace(good, `"size":1,`, "", 1))), 422},
		{"a batch", nil, newRequest("POST", "/", "application/cloudevents-batch+json", strings.NewReader("["+good+"]")), 422},
		{"too large", nil, newRequest("POST", "/", structured, strings.NewReader(strings.Repeat(" ", 64<<10)+good)), 422},
		{"GET", nil, newRequest("GET", "/", "", nil), 422},
		{"HEAD", nil, newRequest("HEAD", "/", "", nil), 422},
		{"OPTIONS", nil, newRequest("OPTIONS", "/", "", nil), 422},
		{"PUT of an event", nil, newRequest("PUT", "/", structured, strings.NewReader(good)), 422},
		{"GET of another path", nil, newRequest("GET", "/files", "", nil), 422},
		{"nothing to another path", nil, newRequest("POST", "/files", "", nil), 422},
		// Refused by function.Wrap.
		{"a query that cannot be parsed", nil, newRequest("POST", "/?x=%zz", structured, strings.NewReader(good)), 400},
		// Transient: the next delivery may succeed.
		{"an incomplete body", nil, newRequest("POST", "/", structured, iotest.ErrReader(io.ErrUnexpectedEOF)), 503},
		{"the store is unavailable", failing(problem.Unavailable.Because(errors.New("no server"), "the store is unavailable")), newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"the store takes too long", failing(context.DeadlineExceeded), newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"the request is canceled", failing(context.Canceled), newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"an unknown error of the store", failing(errors.New("unknown")), newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"not found in the store", failing(problem.NotFound), newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"a panic", &fakeCatalog{fail: func() error { panic("bug") }}, newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		{"a panic that aborts", &fakeCatalog{fail: func() error { panic(http.ErrAbortHandler) }}, newRequest("POST", "/", structured, strings.NewReader(good)), 503},
		// function.Wrap responds to the health probe.
		{"the probe", nil, newRequest("GET", "/healthz", "", nil), 200},
	} {
		if c.catalogue == nil {
			c.catalogue = &fakeCatalog{}
		}
		res := serve(t, c.catalogue, c.request)
		if res.StatusCode != c.want {
			t.Errorf("%s: got status %d, want %d", c.name, res.StatusCode, c.want)
		}
		if n := len(c.catalogue.entries); n != 0 {
			t.Errorf("%s: got %d entries, want none", c.name, n)
		}
		if c.want == 200 {
			continue
		}
		if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s: got Content-Type %q, want a problem document", c.name, got)
		}
		if got := res.Header.Get("Retry-After"); (got != "") != (c.want == 503) {
			t.Errorf("%s: got Retry-After %q, want it only with a 503", c.name, got)
		}
	}
}

func TestRecoversAfterTheStoreDoes(t *testing.T) {
	away := true
	c := &fakeCatalog{fail: func() error {
		if away {
			return problem.Unavailable.Because(errors.New("no server"), "the store is unavailable")
		}
		return nil
	}}
	for _, want := range []int{503, 503, 204, 204} {
		away = want == 503
		if res := serve(t, c, newRequest("POST", "/", structured, strings.NewReader(event(t)))); res.StatusCode != want {
			t.Errorf("got status %d, want %d", res.StatusCode, want)
		}
	}
	if len(c.entries) != 1 || c.inserts != 2 {
		t.Errorf("got %d entries after %d inserts, want 1 after 2", len(c.entries), c.inserts)
	}
}

// TestDeliveredManyTimes delivers one event 100 times, from 16 concurrent goroutines.
func TestDeliveredManyTimes(t *testing.T) {
	c := &fakeCatalog{}
	body := event(t)
	deliveries := make(chan struct{}, 100)
	for range cap(deliveries) {
		deliveries <- struct{}{}
	}
	close(deliveries)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range deliveries {
				if res := serve(t, c, newRequest("POST", "/", structured, strings.NewReader(body))); res.StatusCode/100 != 2 {
					t.Errorf("got status %d, want 2xx", res.StatusCode)
				}
			}
		})
	}
	group.Wait()
	if len(c.entries) != 1 || c.inserts != 100 {
		t.Errorf("got %d entries after %d inserts, want 1 after 100", len(c.entries), c.inserts)
	}
}

// TestDeletedFile checks that a deleted file has no entry after its event was delivered, even if it had one before.
func TestDeletedFile(t *testing.T) {
	c := &fakeCatalog{deleted: map[string]bool{fileID: true}}
	for _, delivery := range []string{"first", "second"} {
		if res := serve(t, c, newRequest("POST", "/", structured, strings.NewReader(event(t)))); res.StatusCode != 204 || len(c.entries) != 0 {
			t.Errorf("%s delivery: got %d and %d entries, want 204 and none", delivery, res.StatusCode, len(c.entries))
		}
	}
	// The first delivery inserted the entry. Its check for the tombstone did not happen, because the process was
	// killed.
	c = &fakeCatalog{}
	serve(t, c, newRequest("POST", "/", structured, strings.NewReader(event(t))))
	c.deleted = map[string]bool{fileID: true}
	away := func() error { return problem.Unavailable.With("the store is unavailable") }
	for name, fail := range map[string]func() error{"unavailable": away, "unknown error": func() error { return errors.New("unknown") }, "panic": func() error { panic("bug") }} {
		for _, which := range []*func() error{&c.failIsDeleted, &c.failDelete} {
			*which = fail
			if res := serve(t, c, newRequest("POST", "/", structured, strings.NewReader(event(t)))); res.StatusCode != 503 || len(c.entries) != 1 {
				t.Errorf("%s: got %d and %d entries, want 503 and 1", name, res.StatusCode, len(c.entries))
			}
			*which = nil
		}
	}
	if res := serve(t, c, newRequest("POST", "/", structured, strings.NewReader(event(t)))); res.StatusCode != 204 || len(c.entries) != 0 {
		t.Errorf("last delivery: got %d and %d entries, want 204 and none", res.StatusCode, len(c.entries))
	}
}

func TestSetup(t *testing.T) {
	if _, err := setup(t.Context(), config{MongoURI: "mongodb://u:hush@h"}); err == nil ||
		!strings.HasPrefix(err.Error(), "MONGODB_URI: ") || strings.Contains(err.Error(), "hush") {
		t.Errorf("a URI without a database: got error %v, want one that names MONGODB_URI and hides the password", err)
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
		c := &fakeCatalog{}
		return api.Handler(t, function.Wrap(newHandler(c, c, time.Now), time.Hour))
	}, http.StatusServiceUnavailable, "POST /\nContent-Type: "+structured)
}
