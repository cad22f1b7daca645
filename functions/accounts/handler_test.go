package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	adaJSON  = `{"id":"` + adaID + `","username":"ada","role":"user","disabled":false,"created_at":"2026-03-01T12:00:00Z","updated_at":"2026-03-01T12:00:00Z"}`
	goneJSON = `{"id":"` + goneID + `","username":"gone","role":"admin","disabled":true,"created_at":"2026-03-01T12:00:00Z","updated_at":"2026-03-01T13:00:00Z"}`
	newUser  = `{"username":"eve","password":"eve-password","role":"user"}`
	change   = `{"current_password":"lovelace-1843","new_password":"babbage-1822"}`
)

// TestAnswers checks the responses to valid requests, and that the store gets no other calls than the request needs.
func TestAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		who, method, target, body string
		status                    int
		want                      string // the response body
		calls                     []string
	}{
		"me":      {"ada", "GET", "/accounts/me", "", 200, adaJSON, nil},
		"list":    {"grace", "GET", "/accounts", "", 200, `{"accounts":[` + adaJSON + `,` + goneJSON + `]}`, nil},
		"show":    {"grace", "GET", "/accounts/" + goneID, "", 200, goneJSON, nil},
		"create":  {"grace", "POST", "/accounts", newUser, 201, strings.NewReplacer(adaID, newID, "ada", "eve").Replace(adaJSON), []string{"create eve [eve-password] user"}},
		"promote": {"grace", "PATCH", "/accounts/" + adaID, `{"role":"admin"}`, 200, strings.Replace(adaJSON, `"user"`, `"admin"`, 1), []string{"update " + adaID + " role admin"}},
		"enable":  {"grace", "PATCH", "/accounts/" + goneID, `{"disabled":false}`, 200, strings.Replace(goneJSON, `true`, `false`, 1), []string{"update " + goneID + " disabled false"}},
		"reset":   {"grace", "PATCH", "/accounts/" + adaID, `{"password":"babbage-1822"}`, 200, adaJSON, []string{"update " + adaID + " hash [babbage-1822]"}},
		"all members": {"grace", "PATCH", "/accounts/" + adaID, `{"password":"babbage-1822","role":"user","disabled":true}`, 200,
			strings.Replace(adaJSON, `false`, `true`, 1), []string{"update " + adaID + " role user disabled true hash [babbage-1822]"}},
		"delete":          {"grace", "DELETE", "/accounts/" + adaID, "", 204, "", []string{"delete " + adaID}},
		"change password": {"ada", "PUT", "/accounts/me/password", change, 204, "", []string{"reserve ada", "change [babbage-1822]"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			w := f.send(f.request(test.who, test.method, test.target, test.body))
			if w.Code != test.status || strings.TrimSpace(w.Body.String()) != test.want {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, test.status, test.want)
			}
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
			if !reflect.DeepEqual(f.store.calls, test.calls) {
				t.Errorf("got the store calls %q, want %q", f.store.calls, test.calls)
			}
			if test.calls == nil {
				return
			}
			caller := f.store.users[map[string]string{"ada": adaID, "grace": graceID}[test.who]]
			want := accounts.Actor{ID: caller.ID, Username: caller.Username, Version: caller.TokenVersion, Address: netip.MustParseAddr("203.0.113.9"), RequestID: "request-1"}
			if f.store.by != want {
				t.Errorf("got actor %+v, want %+v", f.store.by, want)
			}
			if location := w.Header().Get("Location"); (location == "/accounts/"+newID) != (test.status == 201) {
				t.Errorf("got Location %q with status %d", location, test.status)
			}
		})
	}
}

func TestPages(t *testing.T) {
	f := newFixture(t)
	f.store.next = "next-1"
	f.store.entries = []accounts.AuditEntry{
		{ID: "0195a3f0-0000-7000-8000-000000000002", MadeAt: noon, Action: accounts.ActionRoleChanged, ActorID: graceID, ActorName: "grace", UserID: adaID, Username: "ada", Role: "admin", Address: "203.0.113.9", RequestID: "r"},
		{ID: "0195a3f0-0000-7000-8000-000000000001", MadeAt: noon, Action: accounts.ActionCreated, ActorName: "setup", UserID: adaID, Username: "ada", Role: "user"},
	}
	const audit = `{"entries":[` +
		`{"id":"0195a3f0-0000-7000-8000-000000000002","at":"2026-03-01T12:00:00Z","action":"role.changed","actor":{"id":"` + graceID + `","username":"grace"},"account":{"id":"` + adaID + `","username":"ada"},"role":"admin","address":"203.0.113.9","request_id":"r"},` +
		`{"id":"0195a3f0-0000-7000-8000-000000000001","at":"2026-03-01T12:00:00Z","action":"user.created","actor":{"username":"setup"},"account":{"id":"` + adaID + `","username":"ada"},"role":"user"}` +
		`],"next":"next-1"}`
	for target, want := range map[string]struct{ asked, body string }{
		"/accounts":                        {"50", `{"accounts":[` + adaJSON + `,` + goneJSON + `],"next":"next-1"}`},
		"/accounts?limit=7&cursor=abc":     {"7abc", `{"accounts":[` + adaJSON + `,` + goneJSON + `],"next":"next-1"}`},
		"/accounts/audit":                  {"50", audit},
		"/accounts/audit?limit=1&cursor=x": {"1x", audit},
	} {
		w := f.send(f.request("grace", "GET", target, ""))
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != want.body {
			t.Errorf("%s: got %d %s, want 200 %s", target, w.Code, w.Body, want.body)
		}
		if f.store.asked != want.asked {
			t.Errorf("%s: the store got the limit and cursor %q, want %q", target, f.store.asked, want.asked)
		}
	}
	f.store.entries = nil
	if w := f.send(f.request("grace", "GET", "/accounts/audit", "")); !strings.Contains(w.Body.String(), `"entries":[]`) {
		t.Errorf("no entries: got %s, want an empty list", w.Body)
	}
}

// TestRefusals checks the response for each reason to refuse a request, and that a refused request changes nothing.
func TestRefusals(t *testing.T) {
	const (
		invalid  = `Bearer realm="strongroom", error="invalid_token", error_description="the account has changed since the token was issued"`
		noScope  = `Bearer realm="strongroom", error="insufficient_scope", scope="accounts:manage"`
		ada      = "/accounts/" + adaID
		password = "/accounts/me/password"
	)
	padded := func(body string, n int) string { return body + strings.Repeat(" ", n-len(body)) }
	for name, test := range map[string]struct {
		who, method, target, body string
		status                    int
		kind                      string
		header                    string // "Name: value"
	}{
		"unknown path":               {"grace", "GET", "/", "", 404, "not-found", ""},
		"unknown path below":         {"grace", "GET", ada + "/password", "", 404, "not-found", ""},
		"path with a trailing slash": {"grace", "GET", "/accounts/", "", 404, "not-found", ""},
		"path with a longer name":    {"grace", "GET", "/accountsx", "", 404, "not-found", ""},
		"DELETE accounts":            {"grace", "DELETE", "/accounts", "", 405, "method-not-allowed", "Allow: GET, HEAD, POST"},
		"PUT account":                {"grace", "PUT", ada, "", 405, "method-not-allowed", "Allow: GET, HEAD, PATCH, DELETE"},
		"POST audit":                 {"grace", "POST", "/accounts/audit", "", 405, "method-not-allowed", "Allow: GET, HEAD"},
		"DELETE audit":               {"grace", "DELETE", "/accounts/audit", "", 405, "method-not-allowed", "Allow: GET, HEAD"},
		"DELETE me":                  {"grace", "DELETE", "/accounts/me", "", 405, "method-not-allowed", "Allow: GET, HEAD"},
		"GET password":               {"ada", "GET", password, "", 405, "method-not-allowed", "Allow: PUT"},
		"OPTIONS, no token":          {"", "OPTIONS", "/accounts", "", 405, "method-not-allowed", "Allow: GET, HEAD, POST"},
		"no token":                   {"", "GET", "/accounts", "", 401, "unauthenticated", `WWW-Authenticate: Bearer realm="strongroom"`},
		"no token, me":               {"", "GET", "/accounts/me", "", 401, "unauthenticated", `WWW-Authenticate: Bearer realm="strongroom"`},
		"no token, password":         {"", "PUT", password, change, 401, "unauthenticated", `WWW-Authenticate: Bearer realm="strongroom"`},
		"blank token, me":            {"blank", "GET", "/accounts/me", "", 400, "bad-request", ""},
		"blank token":                {"blank", "GET", ada, "", 400, "bad-request", ""},
		"blank token, delete":        {"blank", "DELETE", ada, "", 400, "bad-request", ""},
		"broken token":               {"broken", "GET", "/accounts/me", "", 401, "unauthenticated", ""},

		"user lists":                       {"ada", "GET", "/accounts", "", 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"user creates":                     {"ada", "POST", "/accounts", newUser, 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"user shows":                       {"ada", "GET", ada, "", 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"user promotes":                    {"ada", "PATCH", ada, `{"role":"admin"}`, 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"user deletes":                     {"ada", "DELETE", ada, "", 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"user reads the audit trail":       {"ada", "GET", "/accounts/audit", "", 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"demoted in the database, lists":   {"demoted", "GET", "/accounts", "", 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"demoted in the database, creates": {"demoted", "POST", "/accounts", newUser, 403, "insufficient-scope", "WWW-Authenticate: " + noScope},
		"old token lists":                  {"old", "GET", "/accounts", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token creates":                {"old", "POST", "/accounts", newUser, 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token changes":                {"old", "PATCH", ada, `{"role":"admin"}`, 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token deletes":                {"old", "DELETE", ada, "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token, audit trail":           {"old", "GET", "/accounts/audit", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token, me":                    {"old", "GET", "/accounts/me", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"old token, password":              {"old", "PUT", password, change, 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"disabled admin":                   {"gone", "GET", "/accounts", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"disabled, me":                     {"gone", "GET", "/accounts/me", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},
		"deleted admin":                    {"deleted", "GET", "/accounts", "", 401, "unauthenticated", "WWW-Authenticate: " + invalid},

		"unknown user":                {"grace", "GET", "/accounts/" + newID, "", 404, "not-found", ""},
		"unknown user, changed":       {"grace", "PATCH", "/accounts/" + newID, `{"role":"user"}`, 404, "not-found", ""},
		"unknown user, deleted":       {"grace", "DELETE", "/accounts/x", "", 404, "not-found", ""},
		"limit not a number":          {"grace", "GET", "/accounts?limit=ten", "", 400, "bad-request", ""},
		"audit, limit not an integer": {"grace", "GET", "/accounts/audit?limit=1.5", "", 400, "bad-request", ""},
		"query malformed":             {"grace", "GET", "/accounts?cursor=%zz", "", 400, "bad-request", ""},
		"query with a semicolon":      {"grace", "DELETE", ada + "?x=1;y=2", "", 400, "bad-request", ""},
		"limit twice":                 {"grace", "GET", "/accounts?limit=1&limit=2", "", 400, "bad-request", ""},
		"cursor twice":                {"grace", "GET", "/accounts?cursor=a&cursor=a", "", 400, "bad-request", ""},
		"audit, limit twice":          {"grace", "GET", "/accounts/audit?limit=1&limit=2", "", 400, "bad-request", ""},

		"create, no members":            {"grace", "POST", "/accounts", `{}`, 400, "bad-request", ""},
		"create, no role":               {"grace", "POST", "/accounts", `{"username":"eve","password":"eve-password"}`, 400, "bad-request", ""},
		"create, unknown member":        {"grace", "POST", "/accounts", `{"username":"eve","password":"eve-password","role":"user","id":"1"}`, 400, "bad-request", ""},
		"create, password a number":     {"grace", "POST", "/accounts", `{"username":"eve","password":12345678,"role":"user"}`, 400, "bad-request", ""},
		"create, short password":        {"grace", "POST", "/accounts", `{"username":"eve","password":"1234567","role":"user"}`, 422, "unprocessable", ""},
		"create, no type":               {"grace", "POST", "/accounts", "", 415, "unsupported-media-type", "Accept: application/json"},
		"create, too large":             {"grace", "POST", "/accounts", padded(newUser, 4097), 413, "too-large", ""},
		"patch, no members":             {"grace", "PATCH", ada, `{}`, 400, "bad-request", ""},
		"patch, null":                   {"grace", "PATCH", ada, `{"role":null}`, 400, "bad-request", ""},
		"patch, member twice":           {"grace", "PATCH", ada, `{"role":"user","role":"admin"}`, 400, "bad-request", ""},
		"patch, member in another case": {"grace", "PATCH", ada, `{"Role":"admin"}`, 400, "bad-request", ""},
		"patch, unknown member":         {"grace", "PATCH", ada, `{"role":"user","username":"eve"}`, 400, "bad-request", ""},
		"patch, trailing data":          {"grace", "PATCH", ada, `{"role":"user"} {}`, 400, "bad-request", ""},
		"patch, disabled a string":      {"grace", "PATCH", ada, `{"disabled":"true"}`, 400, "bad-request", ""},
		"patch, short password":         {"grace", "PATCH", ada, `{"disabled":true,"password":"short"}`, 422, "unprocessable", ""},
		"patch, too large":              {"grace", "PATCH", ada, padded(`{"role":"user"}`, 4097), 413, "too-large", ""},
		"patch, no type":                {"grace", "PATCH", ada, "", 415, "unsupported-media-type", "Accept: application/json"},

		"password, no current":             {"ada", "PUT", password, `{"new_password":"babbage-1822"}`, 400, "bad-request", ""},
		"password, no new":                 {"ada", "PUT", password, `{"current_password":"lovelace-1843"}`, 400, "bad-request", ""},
		"password, unknown member":         {"ada", "PUT", password, `{"current_password":"lovelace-1843","new_password":"babbage-1822","username":"grace"}`, 400, "bad-request", ""},
		"password, new password short":     {"ada", "PUT", password, `{"current_password":"lovelace-1843","new_password":"short"}`, 422, "unprocessable", ""},
		"password, new password not UTF-8": {"ada", "PUT", password, `{"current_password":"lovelace-1843","new_password":"babbage\ud800-1822"}`, 422, "unprocessable", ""},
		"password, too large":              {"ada", "PUT", password, padded(change, 4097), 413, "too-large", ""},
		"password, no type":                {"ada", "PUT", password, "", 415, "unsupported-media-type", "Accept: application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			w := f.send(f.request(test.who, test.method, test.target, test.body))
			wantProblem(t, w, test.status, test.kind)
			if header, want, ok := strings.Cut(test.header, ": "); ok && w.Header().Get(header) != want {
				t.Errorf("got %s %q, want %q", header, w.Header().Get(header), want)
			}
			if f.store.calls != nil {
				t.Errorf("got the store calls %q, want none", f.store.calls)
			}
		})
	}
}

func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, kind string) {
	t.Helper()
	var document problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
		t.Fatalf("got %d %s, which is not a problem document: %v", w.Code, w.Body, err)
	}
	if w.Code != status || document.Status != status || document.Type != "urn:strongroom:problem:"+kind {
		t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, kind)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("got Content-Type %q, want application/problem+json", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("got Cache-Control %q, want no-store", got)
	}
	for _, secret := range []string{"lovelace", "hopper", "eve-password", "babbage", "["} {
		if strings.Contains(w.Body.String(), secret) {
			t.Errorf("the response shows a password or a hash: %s", w.Body)
		}
	}
}

func TestErrorsOfTheStore(t *testing.T) {
	away := problem.Unavailable.With("the account store is unavailable")
	requests := map[string][4]string{
		"list":   {"grace", "GET", "/accounts", ""},
		"audit":  {"grace", "GET", "/accounts/audit", ""},
		"show":   {"grace", "GET", "/accounts/" + adaID, ""},
		"create": {"grace", "POST", "/accounts", newUser},
		"patch":  {"grace", "PATCH", "/accounts/" + adaID, `{"disabled":true}`},
		"delete": {"grace", "DELETE", "/accounts/" + adaID, ""},
		"change": {"ada", "PUT", "/accounts/me/password", change},
	}
	for name, r := range requests {
		for _, c := range []struct {
			err    error
			status int
			kind   string
			of     string // the names of the requests that can fail with err, empty for all requests
		}{
			{away, 503, "unavailable", ""},
			{errors.New("Error 1064: lovelace"), 500, "internal", ""},
			{accounts.ErrLastAdmin, 409, "conflict", "patch delete"},
			{problem.Conflict.With("the user name is taken"), 409, "conflict", "create"},
			{accounts.ErrStaleToken, 401, "unauthenticated", ""},
			{problem.Unprocessable.With("unknown role"), 422, "unprocessable", "create patch"},
		} {
			if c.of != "" && !strings.Contains(c.of, name) {
				continue
			}
			t.Run(name+"/"+c.kind, func(t *testing.T) {
				f := newFixture(t)
				f.store.err = c.err
				w := f.send(f.request(r[0], r[1], r[2], r[3]))
				wantProblem(t, w, c.status, c.kind)
				if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (c.status == 401) {
					t.Errorf("got WWW-Authenticate %q with status %d", challenge, c.status)
				}
			})
		}
		t.Run(name+"/account lookup unavailable", func(t *testing.T) {
			f := newFixture(t)
			f.store.away = away
			w := f.send(f.request(r[0], r[1], r[2], r[3]))
			wantProblem(t, w, 503, "unavailable")
			if w.Header().Get("Retry-After") == "" || f.store.calls != nil {
				t.Errorf("got Retry-After %q and the store calls %q, want a Retry-After and no calls", w.Header().Get("Retry-After"), f.store.calls)
			}
		})
	}
	f := newFixture(t)
	f.store.away = away
	wantProblem(t, f.send(f.request("ada", "GET", "/accounts/me", "")), 503, "unavailable")
	for _, name := range []string{"create", "change"} {
		f := newFixture(t)
		f.hasher.hashErr = away
		r := requests[name]
		wantProblem(t, f.send(f.request(r[0], r[1], r[2], r[3])), 503, "unavailable")
	}
}

func TestHead(t *testing.T) {
	f := newFixture(t)
	for _, target := range []string{"/accounts", "/accounts/me", "/accounts/audit", "/accounts/" + adaID} {
		if w := f.send(f.request("grace", "HEAD", target, "")); w.Code != 200 {
			t.Errorf("HEAD %s: got status %d, want 200", target, w.Code)
		}
	}
}

// TestCurrentPassword checks that a wrong current password counts as a failed login attempt, and that the password
// changes only if the current password is correct.
func TestCurrentPassword(t *testing.T) {
	away := problem.Unavailable.With("the account store is unavailable")
	wrong := strings.Replace(change, "lovelace", "byron", 1)
	for name, test := range map[string]struct {
		who, body string
		change    func(*fixture)
		status    int
		kind      string
		outcomes  []accounts.Outcome
	}{
		"correct password":                       {"ada", change, func(*fixture) {}, 204, "", []accounts.Outcome{accounts.Succeeded}},
		"correct password, outcome not recorded": {"ada", change, func(f *fixture) { f.store.settled = away }, 204, "", []accounts.Outcome{accounts.Succeeded}},
		"wrong password":                         {"ada", wrong, func(*fixture) {}, 403, "wrong-password", []accounts.Outcome{accounts.Failed}},
		"malformed hash":                         {"demoted", change, func(*fixture) {}, 403, "wrong-password", []accounts.Outcome{accounts.Failed}},
		"blocked":                                {"ada", change, func(f *fixture) { f.store.blocked = true }, 429, "too-many-attempts", nil},
		"no free hashing slot":                   {"ada", change, func(f *fixture) { f.hasher.verifyErr = away }, 503, "unavailable", []accounts.Outcome{accounts.Undecided}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test.change(f)
			w := f.send(f.request(test.who, "PUT", "/accounts/me/password", test.body))
			if test.status == 204 {
				if w.Code != 204 {
					t.Errorf("got %d %s, want 204", w.Code, w.Body)
				}
			} else {
				wantProblem(t, w, test.status, test.kind)
				for _, call := range f.store.calls {
					if strings.HasPrefix(call, "change") {
						t.Errorf("the password was changed: %q", f.store.calls)
					}
				}
			}
			if !reflect.DeepEqual(f.store.outcomes, test.outcomes) {
				t.Errorf("got outcomes %v, want %v", f.store.outcomes, test.outcomes)
			}
			if test.outcomes != nil && f.store.address.String() != "203.0.113.9" {
				t.Errorf("the attempt was counted for %v, want the client's address", f.store.address)
			}
			if retry := w.Header().Get("Retry-After"); test.status == 429 && retry != "90" {
				t.Errorf("got Retry-After %q, want 90", retry)
			}
		})
	}
	f := newFixture(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f.send(f.request("ada", "PUT", "/accounts/me/password", wrong).WithContext(gone))
	if want := []accounts.Outcome{accounts.Failed}; !reflect.DeepEqual(f.store.outcomes, want) {
		t.Errorf("client disconnected: got outcomes %v, want %v", f.store.outcomes, want)
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		f := newFixture(t)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+f.tokens["grace"])
			f.ServeHTTP(w, r)
		})
	}, http.StatusRequestTimeout, "POST /accounts\nContent-Type: application/json", "PATCH /accounts/"+adaID+"\nContent-Type: application/json",
		"PUT /accounts/me/password\nContent-Type: application/json")
}
