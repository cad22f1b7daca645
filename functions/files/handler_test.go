package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of the files function against docs/openapi.yaml.
var api = contract.Of("files")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

var errAway = problem.Unavailable.Because(errors.New("secret address"), "the store is unavailable")

// fakeCatalog holds entries, newest first, and records the last query.
type fakeCatalog struct {
	entries []catalog.Entry
	next    string
	query   catalog.Query
	err     error
	// deleteErr is the error of Delete. If it is nil, the error is err.
	deleteErr error
}

func (c *fakeCatalog) Get(_ context.Context, id string) (catalog.Entry, error) {
	if c.err != nil {
		return catalog.Entry{}, c.err
	}
	for _, e := range c.entries {
		if e.ID == id {
			return e, nil
		}
	}
	return catalog.Entry{}, problem.NotFound.With("there is no such file")
}

func (c *fakeCatalog) Delete(_ context.Context, id string) error {
	if err := cmp.Or(c.deleteErr, c.err); err != nil {
		return err
	}
	c.entries = slices.DeleteFunc(c.entries, func(e catalog.Entry) bool { return e.ID == id })
	return nil
}

func (c *fakeCatalog) List(_ context.Context, q catalog.Query) ([]catalog.Entry, string, error) {
	c.query = q
	if c.err != nil {
		return nil, "", c.err
	}
	return slices.DeleteFunc(slices.Clone(c.entries), func(e catalog.Entry) bool {
		return q.Owner != "" && e.Owner != q.Owner
	}), c.next, nil
}

// fixture is the handler with a fake store and a fake catalog. The responses of the handler are checked against the API
// contract. The user ada has two files, and one of these files is not in the catalog yet. The user grace has one file.
type fixture struct {
	handler http.Handler
	files   *contenttest.Memory
	entries *fakeCatalog
	links   *links
	signer  *token.Signer
	tokens  map[string]string // by user; the user "none" has no scopes

	checks    int // the number of checks of an account
	checkErr  error
	open      int   // the number of readers that are not closed
	readErr   error // if set, reading a file fails with readErr after failAfter bytes
	failAfter int
}

// wantRemaining fails the test unless wantFile, wantEntry and wantPending report whether the file, its catalog entry
// and its pending deletion exist.
func (f *fixture) wantRemaining(t *testing.T, id string, wantFile, wantEntry, wantPending bool) {
	t.Helper()
	deletions, err := f.files.PendingDeletions(t.Context(), time.Now().Add(time.Hour), 10)
	if err != nil {
		t.Fatal(err)
	}
	gotFile := slices.ContainsFunc(f.files.Files(), func(k contenttest.Stored) bool { return k.ID == id })
	gotEntry := slices.ContainsFunc(f.entries.entries, func(e catalog.Entry) bool { return e.ID == id })
	gotPending := slices.Contains(deletions, id)
	if gotFile != wantFile || gotEntry != wantEntry || gotPending != wantPending {
		t.Errorf("got file %t, catalog entry %t and pending deletion %t, want %t, %t and %t", gotFile, gotEntry, gotPending,
			wantFile, wantEntry, wantPending)
	}
}

// before is called before each operation of the store.
func (f *fixture) before(method, _ string) error {
	switch method {
	case "Reader":
		f.open++
	case "Close":
		f.open--
	case "Read":
		if f.readErr != nil && f.failAfter == 0 {
			return f.readErr
		}
		f.failAfter--
	}
	return nil
}

const (
	cataloguedID = "0195a3f0-0000-7000-8000-000000000001"
	storedID     = "0195a3f0-0000-7000-8000-000000000002"
	gracesID     = "0195a3f0-0000-7000-8000-000000000003"
	noID         = "0195a3f0-0000-7000-8000-000000000009" // no file has this ID

	adasEntry  = `{"id":"` + cataloguedID + `","owner":"ada","name":"notes €.txt","size":11,"sha256":"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9","content_type":"text/html","stored_at":"2026-01-02T03:04:05.006Z","status":"catalogued","catalogued_at":"2026-01-02T03:04:06Z"}`
	adasStored = `{"id":"` + storedID + `","owner":"ada","name":"new.bin","size":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","content_type":"application/octet-stream","stored_at":"2026-01-02T03:04:07Z","status":"stored"}`
	gracesFile = `{"id":"` + gracesID + `","owner":"grace","name":"x","size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","content_type":"text/plain","stored_at":"2026-01-01T00:00:00Z","status":"catalogued","catalogued_at":"2026-01-01T00:00:00Z"}`
)

// now is the current time in the fixture.
var now = time.Date(2026, 1, 3, 0, 0, 0, 700, time.UTC)

func newFixture(t *testing.T) *fixture {
	t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	before := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := &fixture{
		entries: &fakeCatalog{entries: []catalog.Entry{
			{Info: file.Info{ID: cataloguedID, Owner: "ada", Name: "notes €.txt", Size: 11, SHA256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9", ContentType: "text/html", StoredAt: at}, CataloguedAt: at.Add(994 * time.Millisecond)},
			{Info: file.Info{ID: gracesID, Owner: "grace", Name: "x", SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", ContentType: "text/plain", StoredAt: before}, CataloguedAt: before},
		}},
		files:  contenttest.New(),
		links:  &links{key: []byte("0123456789abcdef0123456789abcdef"), now: func() time.Time { return now }},
		tokens: map[string]string{},
	}
	f.files.Before = f.before
	f.files.Add(content.File{Info: file.Info{ID: cataloguedID, Owner: "ada", Name: "notes €.txt", Size: 11, SHA256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9", ContentType: "text/html", StoredAt: at}}, "hello world")
	f.files.Add(content.File{Info: file.Info{ID: storedID, Owner: "ada", Name: "new.bin", Size: 3, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", ContentType: "application/octet-stream", StoredAt: at.Add(1994 * time.Millisecond)}}, "abc")
	f.files.Add(content.File{Info: file.Info{ID: gracesID, Owner: "grace", Name: "x", SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", ContentType: "text/plain", StoredAt: before}}, "")
	signer, verifier, _ := tokentest.New(t)
	for user, roles := range map[string][]string{
		"ada": {token.RoleUser}, "grace": {token.RoleUser}, "root": {token.RoleAdmin}, "none": {},
	} {
		raw, _, err := signer.Sign(token.Subject{ID: user, Username: user, Roles: roles, Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		f.tokens[user] = raw
	}
	f.signer = signer
	f.handler = api.Handler(t, function.Wrap(newHandler(verifier, f.files, f.entries, f.links, f), time.Minute))
	return f
}

// send sends a request with the access token of user. If user is empty, the request has no token.
func (f *fixture) send(user, method, target string, headers map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if user != "" {
		r.Header.Set("Authorization", "Bearer "+f.tokens[user])
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	answer := httptest.NewRecorder()
	origin := &request.Origin{ID: "request-1", Address: netip.MustParseAddr("203.0.113.9")}
	f.handler.ServeHTTP(answer, r.WithContext(request.WithOrigin(r.Context(), origin)))
	return answer
}

// wantProblem fails the test unless the response is a problem document with the given status and problem name.
func wantProblem(t *testing.T, answer *httptest.ResponseRecorder, status int, name string) {
	t.Helper()
	var document problem.Document
	if err := json.Unmarshal(answer.Body.Bytes(), &document); err != nil || answer.Code != status ||
		document.Type != "urn:strongroom:problem:"+name || answer.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s, want %d %s", answer.Code, answer.Body, status, name)
	}
	if strings.Contains(answer.Body.String(), "secret") {
		t.Errorf("got %s, which exposes the cause", answer.Body)
	}
	if status == 503 && answer.Header().Get("Retry-After") == "" {
		t.Error("got no Retry-After")
	}
}

func TestList(t *testing.T) {
	for name, c := range map[string]struct {
		user, target string
		want         string
		query        catalog.Query
	}{
		"own files":                     {"ada", "/files", `{"files":[` + adasEntry + `]}`, catalog.Query{Owner: "ada"}},
		"own files, owner in the query": {"ada", "/files?owner=ada", `{"files":[` + adasEntry + `]}`, catalog.Query{Owner: "ada"}},
		"limit and cursor":              {"ada", "/files?limit=7&cursor=c", `{"files":[` + adasEntry + `]}`, catalog.Query{Owner: "ada", Limit: 7, Cursor: "c"}},
		"admin":                         {"root", "/files?limit=100", `{"files":[` + adasEntry + `,` + gracesFile + `]}`, catalog.Query{Limit: 100}},
		"admin, one owner":              {"root", "/files?owner=grace", `{"files":[` + gracesFile + `]}`, catalog.Query{Owner: "grace"}},
		"search":                        {"ada", "/files?q=NOTES+%E2%82%AC", `{"files":[` + adasEntry + `]}`, catalog.Query{Owner: "ada", Name: "NOTES €"}},
		"sort":                          {"ada", "/files?sort=-size", `{"files":[` + adasEntry + `]}`, catalog.Query{Owner: "ada", Sort: "-size"}},
		"admin, owner without files":    {"root", "/files?owner=nobody", `{"files":[]}`, catalog.Query{Owner: "nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer := f.send(c.user, "GET", c.target, nil)
			if got := answer.Body.String(); answer.Code != 200 || got != c.want+"\n" {
				t.Errorf("got %d %s, want 200 %s", answer.Code, got, c.want)
			}
			if f.entries.query != c.query {
				t.Errorf("got query %+v, want %+v", f.entries.query, c.query)
			}
			if got := answer.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
		})
	}
	t.Run("more pages", func(t *testing.T) {
		f := newFixture(t)
		f.entries.next = "further"
		if got, want := f.send("ada", "GET", "/files", nil).Body.String(), `{"files":[`+adasEntry+`],"next":"further"}`+"\n"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestShow(t *testing.T) {
	for name, c := range map[string]struct{ user, id, want string }{
		"catalogued":                    {"ada", cataloguedID, adasEntry},
		"not in the catalog yet":        {"ada", storedID, adasStored},
		"admin":                         {"root", cataloguedID, adasEntry},
		"admin, file of another user":   {"root", gracesID, gracesFile},
		"admin, not in the catalog yet": {"root", storedID, adasStored},
	} {
		t.Run(name, func(t *testing.T) {
			answer := newFixture(t).send(c.user, "GET", "/files/"+c.id, nil)
			if got := answer.Body.String(); answer.Code != 200 || got != c.want+"\n" {
				t.Errorf("got %d %s, want 200 %s", answer.Code, got, c.want)
			}
			if got := answer.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		user, method, target string
		status               int
		problem              string
	}{
		"no token":                           {"", "GET", "/files", 401, "unauthenticated"},
		"no token for a file":                {"", "GET", "/files/" + cataloguedID, 401, "unauthenticated"},
		"no token for the content":           {"", "GET", "/files/" + cataloguedID + "/content", 401, "unauthenticated"},
		"no scope":                           {"none", "GET", "/files", 403, "insufficient-scope"},
		"no scope for the content":           {"none", "GET", "/files/" + cataloguedID + "/content", 403, "insufficient-scope"},
		"no scope for a file":                {"none", "GET", "/files/" + cataloguedID, 403, "insufficient-scope"},
		"no scope for a link":                {"none", "POST", "/files/" + cataloguedID + "/link", 403, "insufficient-scope"},
		"blank token":                        {"blank", "GET", "/files/" + cataloguedID, 400, "bad-request"},
		"blank token for the content":        {"blank", "GET", "/files/" + cataloguedID + "/content", 400, "bad-request"},
		"delete with a blank token":          {"blank", "DELETE", "/files/" + cataloguedID, 400, "bad-request"},
		"files of another user":              {"ada", "GET", "/files?owner=grace", 403, "insufficient-scope"},
		"file of another user":               {"ada", "GET", "/files/" + gracesID, 404, "not-found"},
		"content of another user":            {"ada", "GET", "/files/" + gracesID + "/content", 404, "not-found"},
		"no such file":                       {"ada", "GET", "/files/" + noID, 404, "not-found"},
		"no such content":                    {"ada", "GET", "/files/" + noID + "/content", 404, "not-found"},
		"no such path":                       {"ada", "GET", "/", 404, "not-found"},
		"unknown path below a file":          {"ada", "GET", "/files/" + cataloguedID + "/other", 404, "not-found"},
		"unknown path below the content":     {"ada", "GET", "/files/" + cataloguedID + "/content/x", 404, "not-found"},
		"no ID":                              {"ada", "GET", "/files/", 404, "not-found"},
		"no ID before the content":           {"ada", "GET", "/files//content", 404, "not-found"},
		"path with the same prefix":          {"ada", "GET", "/filesx/" + cataloguedID, 404, "not-found"},
		"post to the list":                   {"ada", "POST", "/files", 405, "method-not-allowed"},
		"delete the list":                    {"ada", "DELETE", "/files", 405, "method-not-allowed"},
		"delete without a token":             {"", "DELETE", "/files/" + cataloguedID, 401, "unauthenticated"},
		"delete without a scope":             {"none", "DELETE", "/files/" + cataloguedID, 403, "insufficient-scope"},
		"delete a file of another user":      {"ada", "DELETE", "/files/" + gracesID, 404, "not-found"},
		"delete a file that does not exist":  {"ada", "DELETE", "/files/" + noID, 404, "not-found"},
		"put a file":                         {"ada", "PUT", "/files/" + cataloguedID, 405, "method-not-allowed"},
		"link without a token":               {"", "POST", "/files/" + cataloguedID + "/link", 401, "unauthenticated"},
		"link to a file of another user":     {"ada", "POST", "/files/" + gracesID + "/link", 404, "not-found"},
		"link to a file that does not exist": {"ada", "POST", "/files/" + noID + "/link", 404, "not-found"},
		"get a link":                         {"ada", "GET", "/files/" + cataloguedID + "/link", 405, "method-not-allowed"},
		"put content":                        {"ada", "PUT", "/files/" + cataloguedID + "/content", 405, "method-not-allowed"},
		"limit 0":                            {"ada", "GET", "/files?limit=0", 400, "bad-request"},
		"limit 101":                          {"ada", "GET", "/files?limit=101", 400, "bad-request"},
		"limit is not a number":              {"ada", "GET", "/files?limit=x", 400, "bad-request"},
		"malformed query":                    {"ada", "GET", "/files?limit=%zz", 400, "bad-request"},
		"query with a semicolon":             {"ada", "GET", "/files?q=a;b", 400, "bad-request"},
		"delete with a malformed query":      {"ada", "DELETE", "/files/" + cataloguedID + "?x=%", 400, "bad-request"},
		"content with a malformed query":     {"ada", "GET", "/files/" + cataloguedID + "/content?signature=x;y", 400, "bad-request"},
		"owner twice":                        {"root", "GET", "/files?owner=ada&owner=grace", 400, "bad-request"},
		"search twice":                       {"ada", "GET", "/files?q=a&q=b", 400, "bad-request"},
		"cursor twice":                       {"ada", "GET", "/files?cursor=a&cursor=a", 400, "bad-request"},
		"sort twice":                         {"ada", "GET", "/files?sort=name&sort=name", 400, "bad-request"},
		"limit twice":                        {"ada", "GET", "/files?limit=1&limit=2", 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := newFixture(t).send(c.user, c.method, c.target, nil)
			wantProblem(t, answer, c.status, c.problem)
			allow := "GET, HEAD"
			switch c.target {
			case "/files/" + cataloguedID:
				allow = "GET, HEAD, DELETE"
			case "/files/" + cataloguedID + "/link":
				allow = "POST"
			}
			if got := answer.Header().Get("Allow"); c.status == 405 && got != allow {
				t.Errorf("got Allow %q, want %q", got, allow)
			}
		})
	}
	// The responses for a file of another user and for a file that does not exist must be equal.
	f := newFixture(t)
	for _, below := range []string{"", "/content"} {
		others, none := f.send("ada", "GET", "/files/"+gracesID+below, nil), f.send("ada", "GET", "/files/"+noID+below, nil)
		if got, want := others.Body.String(), none.Body.String(); got != want {
			t.Errorf("another user's file: got %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(others.Header()), fmt.Sprint(none.Header()); got != want {
			t.Errorf("another user's file: got header %s, want %s", got, want)
		}
	}
}

func TestStoreAway(t *testing.T) {
	f := newFixture(t)
	f.entries.err = errAway
	for _, target := range []string{"/files", "/files/" + cataloguedID, "/files/" + storedID} {
		wantProblem(t, f.send("ada", "GET", target, nil), 503, "unavailable")
	}
	f = newFixture(t)
	f.files.Before = contenttest.Fail(errAway, "Get")
	for _, target := range []string{"/files/" + storedID, "/files/" + cataloguedID + "/content"} {
		wantProblem(t, f.send("ada", "GET", target, nil), 503, "unavailable")
	}
	wantProblem(t, f.askLink("ada", cataloguedID, ""), 503, "unavailable")
	wantProblem(t, f.send("ada", "DELETE", "/files/"+cataloguedID, nil), 503, "unavailable")
	f.wantRemaining(t, cataloguedID, true, true, false)
}
