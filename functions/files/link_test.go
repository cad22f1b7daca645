package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// ghost adds a catalog entry of the user ada that has no file. It returns the entry's ID.
func (f *fixture) ghost() string {
	info := file.Info{ID: ghostID, Owner: "ada", Name: "x", Size: 1, SHA256: strings.Repeat("0a", 32),
		ContentType: "application/pdf", StoredAt: now}
	f.entries.entries = slices.Insert(f.entries.entries, 0, catalog.Entry{Info: info, CataloguedAt: now})
	return ghostID
}

const ghostID = "0195a3f0-0000-7000-8000-000000000004"

func TestDelete(t *testing.T) {
	for name, c := range map[string]struct {
		user, id string
		removed  int // files and catalog entries
	}{
		"file in the catalog":                {"ada", cataloguedID, 2},
		"file not in the catalog yet":        {"ada", storedID, 1},
		"entry without a file":               {"ada", ghostID, 1},
		"file in the catalog, admin":         {"root", cataloguedID, 2},
		"file of another user, admin":        {"root", gracesID, 2},
		"file not in the catalog yet, admin": {"root", storedID, 1},
		"entry without a file, admin":        {"root", ghostID, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.ghost()
			before := len(f.files.Files()) + len(f.entries.entries)
			if answer := f.send(c.user, "DELETE", "/files/"+c.id, nil); answer.Code != 204 || answer.Body.Len() != 0 {
				t.Errorf("got %d %s, want 204", answer.Code, answer.Body)
			}
			if _, err := f.files.Get(t.Context(), c.id); !errors.Is(err, problem.NotFound) {
				t.Errorf("Get: got error %v, want problem.NotFound", err)
			}
			f.wantRemaining(t, c.id, false, false, false)
			if got := before - len(f.files.Files()) - len(f.entries.entries); got != c.removed {
				t.Errorf("got %d removed files and entries, want %d", got, c.removed)
			}
			wantProblem(t, f.send(c.user, "DELETE", "/files/"+c.id, nil), 404, "not-found")
		})
	}
}

// TestEntryWithoutFile checks that no request can read a file that has a catalog entry but does not exist, and that
// only its owner and admins can delete the entry.
func TestEntryWithoutFile(t *testing.T) {
	f := newFixture(t)
	id := f.ghost()
	for _, user := range []string{"ada", "grace", "root"} {
		wantProblem(t, f.send(user, "GET", "/files/"+id, nil), 404, "not-found")
		wantProblem(t, f.send(user, "GET", "/files/"+id+"/content", nil), 404, "not-found")
		wantProblem(t, f.askLink(user, id, ""), 404, "not-found")
	}
	wantProblem(t, f.send("", "GET", f.links.address(id, now.Add(time.Hour).Unix()), nil), 404, "not-found")
	// The response for an entry of another user must be the same as for an ID without an entry.
	others, none := f.send("grace", "DELETE", "/files/"+id, nil), f.send("grace", "DELETE", "/files/"+noID, nil)
	wantProblem(t, others, 404, "not-found")
	if got, want := others.Body.String(), none.Body.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	wantProblem(t, f.send("none", "DELETE", "/files/"+id, nil), 403, "insufficient-scope")
	wantProblem(t, f.send("", "DELETE", "/files/"+id, nil), 401, "unauthenticated")
	f.wantRemaining(t, id, false, true, false)
	f.entries.err = errAway
	wantProblem(t, f.send("ada", "DELETE", "/files/"+id, nil), 503, "unavailable")
}

// TestDeleteInterrupted checks that all requests for a file fail as soon as its deletion has begun, even if a later
// step of the deletion fails. A second request must complete the deletion while the catalog entry exists.
func TestDeleteInterrupted(t *testing.T) {
	fail := func(method string) func(f *fixture) {
		return func(f *fixture) { f.files.Before = contenttest.Fail(errAway, method) }
	}
	for name, c := range map[string]struct {
		prepare              func(f *fixture)
		file, entry, pending bool // what remains after the first deletion
		again                int  // the status of the second deletion
		pendingAgain         bool // whether sweep must complete the second deletion
	}{
		"before the file is deleted":   {fail("MarkDeleted"), true, true, false, 204, false},
		"before the entry is deleted":  {func(f *fixture) { f.entries.deleteErr = errAway }, false, true, true, 204, false},
		"before the bytes are deleted": {fail("Delete"), false, false, true, 404, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.prepare(f)
			wantProblem(t, f.send("ada", "DELETE", "/files/"+cataloguedID, nil), 503, "unavailable")
			f.wantRemaining(t, cataloguedID, c.file, c.entry, c.pending)
			f.files.Before, f.entries.deleteErr = nil, nil
			if !c.file {
				for _, request := range [][2]string{{"GET", ""}, {"GET", "/content"}, {"POST", "/link"}} {
					wantProblem(t, f.send("ada", request[0], "/files/"+cataloguedID+request[1], nil), 404, "not-found")
				}
			}
			wantProblem(t, f.send("grace", "DELETE", "/files/"+cataloguedID, nil), 404, "not-found")
			if answer := f.send("ada", "DELETE", "/files/"+cataloguedID, nil); answer.Code != c.again {
				t.Errorf("second deletion: got %d %s, want %d", answer.Code, answer.Body, c.again)
			}
			f.wantRemaining(t, cataloguedID, false, false, c.pendingAgain)
		})
	}
}

// TestDeleteClientGone checks that a file is deleted even if the client disconnects after the deletion has begun.
func TestDeleteClientGone(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.files.Before = func(method, _ string) error {
		if method == "MarkDeleted" {
			cancel()
		}
		return nil
	}
	request := httptest.NewRequestWithContext(ctx, "DELETE", "/files/"+cataloguedID, nil)
	request.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
	f.handler.ServeHTTP(httptest.NewRecorder(), request)
	f.wantRemaining(t, cataloguedID, false, false, false)
}

// askLink requests a link. If body is empty, the request has no body.
func (f *fixture) askLink(user, id, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest("POST", "/files/"+id+"/link", strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+f.tokens[user])
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer := httptest.NewRecorder()
	f.handler.ServeHTTP(answer, request)
	return answer
}

func TestLink(t *testing.T) {
	f := newFixture(t)
	for body, life := range map[string]time.Duration{
		"": time.Hour, "{}": time.Hour, `{"expires_in":60}`: time.Minute, `{"expires_in":604800}`: 7 * 24 * time.Hour,
	} {
		for _, user := range []string{"ada", "root"} {
			answer := f.askLink(user, cataloguedID, body)
			var got linkAnswer
			if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil || answer.Code != 201 {
				t.Fatalf("%s: got %d %s", body, answer.Code, answer.Body)
			}
			if want := now.Truncate(time.Second).Add(life); !got.ExpiresAt.Equal(want) {
				t.Errorf("%s: the link expires at %v, want %v", body, got.ExpiresAt, want)
			}
			if answer := f.send("", "GET", got.URL, nil); answer.Code != 200 || answer.Body.String() != "hello world" || answer.Header().Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: got %d %s", got.URL, answer.Code, answer.Body)
			}
		}
	}
	for _, body := range []string{`{"expires_in":59}`, `{"expires_in":604801}`, `{"expires_in":"1h"}`, `{"expires_in":null}`, `{"expire":60}`, "x"} {
		wantProblem(t, f.askLink("ada", cataloguedID, body), 400, "bad-request")
	}
	wantProblem(t, f.askLink("ada", cataloguedID, `{"expires_in":60}`+strings.Repeat(" ", 1<<20)), 413, "too-large")
	request := httptest.NewRequest("POST", "/files/"+cataloguedID+"/link", strings.NewReader(`{}`))
	request.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
	request.Header.Set("Content-Type", "text/plain")
	answer := httptest.NewRecorder()
	f.handler.ServeHTTP(answer, request)
	wantProblem(t, answer, 415, "unsupported-media-type")
}

// Check implements accountCheck.
func (f *fixture) Check(*http.Request) error {
	f.checks++
	return f.checkErr
}

// TestLinkOutlivesToken checks that a link which is valid for longer than the access token requires a recent sign-in
// and a current account. Other links do not, so that they work while the accounts function is unavailable.
func TestLinkOutlivesToken(t *testing.T) {
	const short, long = `{"expires_in":60}`, `{"expires_in":3600}`
	stale := token.Challenge(token.ErrStale)
	for name, c := range map[string]struct {
		body     string
		age      time.Duration // how long ago the user signed in; -1 stands for a token of an earlier version
		checkErr error
		status   int
		kind     string
		checks   int
	}{
		"short link":                              {short, time.Hour, nil, 201, "", 0},
		"short link, earlier version":             {short, -1, nil, 201, "", 0},
		"short link, accounts unavailable":        {short, time.Minute, errAway, 201, "", 0},
		"short link, ended session":               {short, time.Minute, stale, 201, "", 0},
		"link to the end of the token":            {`{"expires_in":950}`, time.Hour, errAway, 201, "", 0},
		"link past the end of the token":          {`{"expires_in":970}`, time.Hour, nil, 401, "sign-in-too-old", 0},
		"long link":                               {long, 9 * time.Minute, nil, 201, "", 1},
		"long link, old sign-in":                  {long, 11 * time.Minute, nil, 401, "sign-in-too-old", 0},
		"long link, earlier version":              {long, -1, nil, 401, "sign-in-too-old", 0},
		"long link, accounts unavailable":         {long, time.Minute, errAway, 503, "unavailable", 1},
		"long link, ended session":                {long, time.Minute, stale, 401, "unauthenticated", 1},
		"link with the default lifetime":          {"", 9 * time.Minute, nil, 201, "", 1},
		"default lifetime, ended session":         {"", time.Minute, stale, 401, "unauthenticated", 1},
		"default lifetime, old sign-in, no check": {"", 11 * time.Minute, stale, 401, "sign-in-too-old", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.links.now, f.checkErr = time.Now, c.checkErr
			subject := token.Subject{ID: "ada", Username: "ada", Roles: []string{token.RoleUser}, Version: 1}
			if c.age >= 0 {
				subject.AuthTime = time.Now().Add(-c.age)
			}
			var err error
			if f.tokens["ada"], _, err = f.signer.Sign(subject); err != nil {
				t.Fatal(err)
			}
			answer := f.askLink("ada", cataloguedID, c.body)
			if c.kind != "" {
				wantProblem(t, answer, c.status, c.kind)
			} else if answer.Code != c.status {
				t.Errorf("got %d %s, want %d", answer.Code, answer.Body, c.status)
			}
			wantProblem(t, f.askLink("ada", gracesID, c.body), 404, "not-found") // no check for a file of another user
			if f.checks != c.checks {
				t.Errorf("got %d checks of the account, want %d", f.checks, c.checks)
			}
		})
	}
}

// TestAccountChecker checks the request to the accounts function, and which responses permit the link.
func TestAccountChecker(t *testing.T) {
	var status int
	var size int
	got := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = w.Write(make([]byte, size))
	}))
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	trust := client.Trust{Key: []byte(strings.Repeat("k", 32))}
	checker := newAccountChecker(base, trust)
	origin := request.Origin{ID: "request-1", ClientID: "client-1", Address: netip.MustParseAddr("203.0.113.9")}
	ask := httptest.NewRequest("POST", "/files/x/link", nil).WithContext(request.WithOrigin(t.Context(), &origin))
	ask.Header.Set("Authorization", "Bearer t")
	ask.Header.Set("Cookie", "secret=1")
	for _, c := range []struct {
		status, size int
		want         error
	}{
		{200, 200, nil}, {200, 1 << 20, nil}, {401, 200, problem.Unauthenticated}, {302, 0, problem.Unavailable}, {403, 0, problem.Unavailable},
		{404, 0, problem.Unavailable}, {429, 0, problem.Unavailable}, {500, 0, problem.Unavailable}, {503, 0, problem.Unavailable},
	} {
		status, size = c.status, c.size
		if err := checker.Check(ask); !errors.Is(err, c.want) {
			t.Errorf("status %d: got error %v, want %v", c.status, err, c.want)
		}
		r := <-got
		if r.Method != "GET" || r.URL.String() != "/accounts/me" || r.Header.Get("Authorization") != "Bearer t" || r.Header.Get("Cookie") != "" {
			t.Errorf("got the request %s %s with the headers %v", r.Method, r.URL, r.Header)
		}
		trust.Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := *request.OriginOf(r.Context()); got != origin {
				t.Errorf("the accounts function sees the origin %+v, want %+v", got, origin)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
	server.Close()
	if err := checker.Check(ask); !errors.Is(err, problem.Unavailable) {
		t.Errorf("no connection: got error %v, want %v", err, problem.Unavailable)
	}
}

func TestLinkedContent(t *testing.T) {
	f := newFixture(t)
	good := f.links.address(cataloguedID, now.Add(time.Minute).Unix())
	if answer := f.send("", "HEAD", good, nil); answer.Code != 200 || answer.Header().Get("Content-Length") != "11" {
		t.Errorf("got %d %v", answer.Code, answer.Header())
	}
	if answer := f.send("", "GET", good, map[string]string{"Range": "bytes=6-"}); answer.Code != 206 || answer.Body.String() != "world" {
		t.Errorf("got %d %s, want 206 and the range", answer.Code, answer.Body)
	}
	wantProblem(t, f.send("", "POST", good, nil), 405, "method-not-allowed")
	for name, target := range map[string]string{
		"expired":               f.links.address(cataloguedID, now.Unix()),
		"later expiration":      strings.Replace(good, "expires=1", "expires=2", 1),
		"another file":          strings.Replace(good, cataloguedID, storedID, 1),
		"another signature":     good[:len(good)-3] + "AAA",
		"empty signature":       strings.Split(good, "&")[0] + "&signature=",
		"repeated parameter":    good + "&expires=1",
		"additional parameter":  good + "&x=1",
		"padded signature":      good + "=",
		"malformed expiration":  strings.Replace(good, "expires=", "expires=x", 1),
		"signed by another key": (&links{key: []byte("x")}).address(cataloguedID, now.Add(time.Minute).Unix()),
	} {
		answer := f.send("", "GET", target, nil)
		if answer.Code != 403 || !strings.Contains(answer.Body.String(), "bad-link") {
			t.Errorf("%s: got %d %s, want 403 bad-link", name, answer.Code, answer.Body)
		}
	}
	if answer := f.send("ada", "DELETE", "/files/"+cataloguedID, nil); answer.Code != 204 {
		t.Fatal(answer.Body)
	}
	wantProblem(t, f.send("", "GET", good, nil), 404, "not-found")
}

func TestLoadLinks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{
		strings.Repeat("k", 31) + "\n": "LINK_KEY_FILE: the key must have at least 32 bytes, but has 31",
		strings.Repeat("k", 32) + "\n": "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadLinks(file); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := loadLinks(file + ".not"); err == nil || !strings.HasPrefix(err.Error(), "LINK_KEY_FILE: ") {
		t.Errorf("got %v, want an error that names LINK_KEY_FILE", err)
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		f := newFixture(t)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
			f.handler.ServeHTTP(w, r)
		})
	}, http.StatusRequestTimeout, "POST /files/"+cataloguedID+"/link\nContent-Type: application/json")
}
