package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	adaJSON  = `{"id":"` + adaID + `","username":"ada","role":"user","disabled":false,"has_passkey":false,"created_at":"2026-03-01T12:00:00Z","updated_at":"2026-03-01T12:00:00Z"}`
	goneJSON = `{"id":"` + goneID + `","username":"gone","role":"admin","disabled":true,"has_passkey":false,"created_at":"2026-03-01T12:00:00Z","updated_at":"2026-03-01T13:00:00Z"}`
	newUser  = `{"username":"eve","password":"eve-password","role":"user"}`
	change   = `{"current_password":"lovelace-1843","new_password":"babbage-1822"}`
)

// call is a request to the accounts function. who names the access token that the request contains.
type call struct{ who, method, target, body string }

// do sends the request that c describes.
func (f *fixture) do(c call) *httptest.ResponseRecorder {
	return f.send(f.request(c.who, c.method, c.target, c.body))
}

// forAdmins returns a valid request for each endpoint that only admins can use.
func forAdmins() map[string]call {
	return map[string]call{
		"list":   {who: "grace", method: "GET", target: "/accounts"},
		"audit":  {who: "grace", method: "GET", target: "/accounts/audit"},
		"show":   {who: "grace", method: "GET", target: "/accounts/" + goneID},
		"create": {who: "grace", method: "POST", target: "/accounts", body: newUser},
		"update": {who: "grace", method: "PATCH", target: "/accounts/" + adaID, body: `{"role":"admin"}`},
		"delete": {who: "grace", method: "DELETE", target: "/accounts/" + adaID},
		"unlock": {who: "grace", method: "DELETE", target: "/accounts/" + adaID + "/lockout"},

		"end sessions":        {who: "grace", method: "DELETE", target: "/accounts/" + adaID + "/sessions"},
		"remove passkeys":     {who: "grace", method: "DELETE", target: "/accounts/" + adaID + "/passkeys"},
		"show second factors": {who: "grace", method: "GET", target: "/accounts/second-factor"},
		"set second factors":  {who: "grace", method: "PUT", target: "/accounts/second-factor", body: `{"roles":["user"]}`},
	}
}

// forUsers returns a valid request for each endpoint that all users can use.
func forUsers() map[string]call {
	return map[string]call{
		"show me":         {who: "ada", method: "GET", target: "/accounts/me"},
		"change password": {who: "ada", method: "PUT", target: "/accounts/me/password", body: change},
		"sessions":        {who: "ada", method: "GET", target: "/sessions"},
		"end session":     {who: "ada", method: "DELETE", target: "/sessions/0b"},
		"end others":      {who: "ada", method: "DELETE", target: "/sessions"},

		"list passkeys":         {who: "ada", method: "GET", target: "/accounts/me/passkeys"},
		"passkey options":       {who: "ada", method: "POST", target: "/accounts/me/passkeys/options"},
		"rename passkey":        {who: "ada", method: "PATCH", target: "/accounts/me/passkeys/" + passkeyID, body: `{"name":"Phone"}`},
		"remove passkey":        {who: "ada", method: "DELETE", target: "/accounts/me/passkeys/" + passkeyID},
		"create recovery codes": {who: "ada", method: "POST", target: "/accounts/me/recovery-codes"},
	}
}

// patch returns an admin's request that changes the user with the given ID.
func patch(id, body string) call {
	return call{who: "grace", method: "PATCH", target: "/accounts/" + id, body: body}
}

// TestResponses checks the responses to valid requests, and that the store gets no other calls than the request needs.
func TestResponses(t *testing.T) {
	admins, users := forAdmins(), forUsers()
	for name, test := range map[string]struct {
		call   call
		status int
		want   string   // the response body
		calls  []string // the calls of the store that change an account
	}{
		"a user sees their own account": {call: users["show me"], status: 200, want: adaJSON},
		"an admin lists the accounts":   {call: admins["list"], status: 200, want: `{"accounts":[` + adaJSON + `,` + goneJSON + `]}`},
		"an admin sees an account":      {call: admins["show"], status: 200, want: goneJSON},
		"an admin creates an account": {
			call:   admins["create"],
			status: 201,
			want:   strings.NewReplacer(adaID, newID, "ada", "eve").Replace(adaJSON),
			calls:  []string{"create eve [eve-password] user must change: true"},
		},
		"an admin changes a role": {
			call:   admins["update"],
			status: 200,
			want:   strings.Replace(adaJSON, `"user"`, `"admin"`, 1),
			calls:  []string{"update " + adaID + " role admin"},
		},
		"an admin enables an account": {
			call:   patch(goneID, `{"disabled":false}`),
			status: 200,
			want:   strings.Replace(goneJSON, `"disabled":true`, `"disabled":false`, 1),
			calls:  []string{"update " + goneID + " disabled false"},
		},
		"an admin resets a password": {
			call:   patch(adaID, `{"password":"babbage-1822"}`),
			status: 200,
			want:   adaJSON,
			calls:  []string{"update " + adaID + " hash [babbage-1822]"},
		},
		"an admin makes all changes in one request": {
			call:   patch(adaID, `{"password":"babbage-1822","role":"user","disabled":true}`),
			status: 200,
			want:   strings.Replace(adaJSON, `"disabled":false`, `"disabled":true`, 1),
			calls:  []string{"update " + adaID + " role user disabled true hash [babbage-1822]"},
		},
		"an admin unlocks an account":      {call: admins["unlock"], status: 204, calls: []string{"unlock " + adaID}},
		"an admin deletes an account":      {call: admins["delete"], status: 204, calls: []string{"delete " + adaID}},
		"an admin ends a user's sessions":  {call: admins["end sessions"], status: 204, calls: []string{"end all of " + adaID}},
		"a user ends a session":            {call: users["end session"], status: 204, calls: []string{"end 0b"}},
		"a user ends their other sessions": {call: users["end others"], status: 204, calls: []string{"end others than 0a"}},
		"a user lists their passkeys": {call: users["list passkeys"], status: 200,
			want: `{"passkeys":[` + passkeyJSON + `],"recovery_codes":9,"second_factor":false}`},
		"a user renames a passkey": {call: users["rename passkey"], status: 200,
			want: strings.Replace(passkeyJSON, "Laptop", "Phone", 1), calls: []string{"rename " + passkeyID + " Phone"}},
		"a user removes a passkey": {call: users["remove passkey"], status: 204, calls: []string{"remove " + passkeyID}},
		"a user creates recovery codes": {call: users["create recovery codes"], status: 200,
			want: `{"recovery_codes":["` + strings.Join(codes, `","`) + `"]}`, calls: []string{"codes"}},
		"an admin removes passkeys":               {call: admins["remove passkeys"], status: 204, calls: []string{"remove all of " + adaID}},
		"an admin sees which roles need a factor": {call: admins["show second factors"], status: 200, want: `{"roles":[]}`},
		"an admin requires a second factor": {call: admins["set second factors"], status: 200,
			want: `{"roles":["user"]}`, calls: []string{"second factor for [user]"}},
		"a user changes their own password": {call: users["change password"], status: 204, calls: []string{"attempt ada", "change [babbage-1822]"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			w := f.do(test.call)
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
			caller := f.store.users[map[string]string{"ada": adaID, "grace": graceID}[test.call.who]]
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
		{ID: "0195a3f0-0000-7000-8000-000000000002", MadeAt: noon, Action: accounts.ActionRoleChanged, ActorID: graceID, ActorName: "grace", UserID: adaID, Username: "ada", Role: "admin", Address: "203.0.113.9", RequestID: "r", ClientRequestID: "c"},
		{ID: "0195a3f0-0000-7000-8000-000000000001", MadeAt: noon, Action: accounts.ActionCreated, ActorName: "setup", UserID: adaID, Username: "ada", Role: "user"},
	}
	const audit = `{"entries":[` +
		`{"id":"0195a3f0-0000-7000-8000-000000000002","at":"2026-03-01T12:00:00Z","action":"role.changed","actor":{"id":"` + graceID + `","username":"grace"},"account":{"id":"` + adaID + `","username":"ada"},"role":"admin","address":"203.0.113.9","request_id":"r","client_request_id":"c"},` +
		`{"id":"0195a3f0-0000-7000-8000-000000000001","at":"2026-03-01T12:00:00Z","action":"user.created","actor":{"username":"setup"},"account":{"id":"` + adaID + `","username":"ada"},"role":"user"}` +
		`],"next":"next-1"}`
	for target, want := range map[string]struct{ asked, body string }{
		"/accounts":                        {asked: "50", body: `{"accounts":[` + adaJSON + `,` + goneJSON + `],"next":"next-1"}`},
		"/accounts?limit=7&cursor=abc":     {asked: "7abc", body: `{"accounts":[` + adaJSON + `,` + goneJSON + `],"next":"next-1"}`},
		"/accounts/audit":                  {asked: "50", body: audit},
		"/accounts/audit?limit=1&cursor=x": {asked: "1x", body: audit},
		"/accounts/audit?username=ada&action=user.created&from=2026-03-01T12:00:00Z&to=2026-03-01T15:00:00%2B02:00": {asked: "50 ada user.created 12:00 15:00", body: audit},
	} {
		w := f.do(call{who: "grace", method: "GET", target: target})
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != want.body {
			t.Errorf("%s: got %d %s, want 200 %s", target, w.Code, w.Body, want.body)
		}
		if f.store.asked != want.asked {
			t.Errorf("%s: the store got the limit and cursor %q, want %q", target, f.store.asked, want.asked)
		}
	}
	f.store.entries = nil
	if w := f.do(forAdmins()["audit"]); !strings.Contains(w.Body.String(), `"entries":[]`) {
		t.Errorf("no entries: got %s, want an empty list", w.Body)
	}
}

// TestActions checks that docs/openapi.yaml lists each action and each detail. The fixture compares each response with
// the document.
func TestActions(t *testing.T) {
	for _, action := range append(accounts.Actions,
		accounts.ActionSignedIn+" pwd", accounts.ActionSignedIn+" passkey", accounts.ActionSignedIn+" pwd+code",
		accounts.ActionSessionEnded+" limit", accounts.ActionSessionEnded+" reuse") {
		action, detail, _ := strings.Cut(action, " ")
		f := newFixture(t)
		f.store.entries = []accounts.AuditEntry{{ID: "0195a3f0-0000-7000-8000-000000000001", MadeAt: noon, Action: action,
			ActorID: adaID, ActorName: "ada", UserID: adaID, Username: "ada", Detail: detail}}
		w := f.do(forAdmins()["audit"])
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), action) || strings.Contains(w.Body.String(), `"detail":"`+detail+`"`) != (detail != "") {
			t.Errorf("%s: got %d %s, want 200 with the action and the detail %q", action, w.Code, w.Body, detail)
		}
	}
}

// TestRejectedCallers checks for each endpoint which access tokens it rejects, and that a rejected request changes
// nothing.
func TestRejectedCallers(t *testing.T) {
	const (
		realm = `Bearer realm="strongroom"`
		stale = realm + `, error="invalid_token", error_description="the session has ended or the account has changed since the token was issued"`
		scope = realm + `, error="insufficient_scope", scope="accounts:manage"`
	)
	for name, test := range map[string]struct {
		who       string
		adminOnly bool // the token is valid for the endpoints that all users can use
		status    int
		kind      string
		challenge string // empty if any challenge is allowed
	}{
		"no token":                         {who: "", status: 401, kind: "unauthenticated", challenge: realm},
		"a header without a token":         {who: "blank", status: 400, kind: "bad-request"},
		"a token that is not signed":       {who: "broken", status: 401, kind: "unauthenticated"},
		"a token with an older version":    {who: "old", status: 401, kind: "unauthenticated", challenge: stale},
		"a disabled admin":                 {who: "gone", status: 401, kind: "unauthenticated", challenge: stale},
		"a deleted admin":                  {who: "deleted", status: 401, kind: "unauthenticated", challenge: stale},
		"a user":                           {who: "ada", adminOnly: true, status: 403, kind: "insufficient-scope", challenge: scope},
		"an admin demoted in the database": {who: "demoted", adminOnly: true, status: 403, kind: "insufficient-scope", challenge: scope},
	} {
		endpoints := forAdmins()
		if !test.adminOnly {
			maps.Copy(endpoints, forUsers())
		}
		for endpoint, c := range endpoints {
			t.Run(name+"/"+endpoint, func(t *testing.T) {
				c.who = test.who
				f := newFixture(t)
				w := f.do(c)
				wantProblem(t, w, test.status, test.kind)
				if got := w.Header().Get("WWW-Authenticate"); got == "" || test.challenge != "" && got != test.challenge {
					t.Errorf("got WWW-Authenticate %q, want %q", got, test.challenge)
				}
				if f.store.calls != nil {
					t.Errorf("got the store calls %q, want none", f.store.calls)
				}
			})
		}
	}
}

// TestRejectedRequests checks the responses to invalid requests, and that an invalid request changes nothing.
func TestRejectedRequests(t *testing.T) {
	const ada, ownPassword = "/accounts/" + adaID, "/accounts/me/password"
	type rejected struct {
		name   string
		call   call
		status int
		kind   string
		header string // "Name: value", or empty if the test checks no header
	}
	tests := []rejected{
		{name: "a user that does not exist is shown", call: call{who: "grace", method: "GET", target: "/accounts/" + newID}, status: 404, kind: "not-found"},
		{name: "a user that does not exist is changed", call: patch(newID, `{"role":"user"}`), status: 404, kind: "not-found"},
		{name: "a user with a malformed ID is unlocked", call: call{who: "grace", method: "DELETE", target: "/accounts/me/lockout"}, status: 404, kind: "not-found"},
		{name: "the sessions of a user that does not exist are ended", call: call{who: "grace", method: "DELETE", target: "/accounts/" + newID + "/sessions"}, status: 404, kind: "not-found"},
		{name: "a user with a malformed ID is deleted", call: call{who: "grace", method: "DELETE", target: "/accounts/x"}, status: 404, kind: "not-found"},
		{name: "a new password for a new user is too short", call: call{who: "grace", method: "POST", target: "/accounts", body: strings.Replace(newUser, "eve-password", "elevenchars", 1)}, status: 422, kind: "unprocessable"},
		{name: "a new password for a user is too short", call: patch(adaID, `{"disabled":true,"password":"short"}`), status: 422, kind: "unprocessable"},
		{name: "a new password for a new user is common", call: call{who: "grace", method: "POST", target: "/accounts", body: strings.Replace(newUser, "eve-password", "Administrator", 1)}, status: 422, kind: "unprocessable"},
		{name: "a new password for a user is the user name", call: patch(graceID, `{"password":"grace-grace-grace"}`), status: 422, kind: "unprocessable"},
		{name: "the password of a user that does not exist is reset", call: patch(newID, `{"password":"babbage-1822"}`), status: 404, kind: "not-found"},
		{name: "a user's new password is common", call: call{who: "ada", method: "PUT", target: ownPassword, body: strings.Replace(change, "babbage-1822", "1qaz2wsx3edc", 1)}, status: 422, kind: "unprocessable"},
		{name: "a user's new password is the current password", call: call{who: "ada", method: "PUT", target: ownPassword, body: strings.Replace(change, "babbage-1822", "lovelace-1843", 1)}, status: 422, kind: "unprocessable"},
		{name: "a user's new password is too short", call: call{who: "ada", method: "PUT", target: ownPassword, body: strings.Replace(change, "babbage-1822", "short", 1)}, status: 422, kind: "unprocessable"},
		{name: "a user's new password is not UTF-8", call: call{who: "ada", method: "PUT", target: ownPassword, body: strings.Replace(change, "babbage", `babbage\ud800`, 1)}, status: 422, kind: "unprocessable"},
		{name: "an admin's own password is changed without the current password", call: patch(graceID, `{"password":"babbage-1822"}`), status: 422, kind: "unprocessable"},
		{name: "a patch changes nothing", call: patch(adaID, `{}`), status: 400, kind: "bad-request"},
		{name: "a query string has a semicolon", call: call{who: "grace", method: "DELETE", target: ada + "?x=1;y=2"}, status: 400, kind: "bad-request"},
	}
	for _, path := range []string{"/", "/accounts/", "/accountsx", ada + "/password"} {
		tests = append(tests, rejected{name: "unknown path " + path, call: call{who: "grace", method: "GET", target: path}, status: 404, kind: "not-found"})
	}
	for request, allow := range map[string]string{
		"DELETE /accounts":        "GET, HEAD, POST",
		"OPTIONS /accounts":       "GET, HEAD, POST",
		"PUT " + ada:              "GET, HEAD, PATCH, DELETE",
		"POST /accounts/audit":    "GET, HEAD",
		"DELETE /accounts/audit":  "GET, HEAD",
		"DELETE /accounts/me":     "GET, HEAD",
		"GET " + ada + "/lockout": "DELETE",
		"GET " + ownPassword:      "PUT",
		"POST /sessions":          "GET, HEAD, DELETE",
		"GET /sessions/0a":        "DELETE",

		"PUT /accounts/me/passkeys":              "GET, HEAD, POST",
		"GET /accounts/me/passkeys/options":      "POST",
		"GET /accounts/me/passkeys/" + passkeyID: "PATCH, DELETE",
		"GET /accounts/me/recovery-codes":        "POST",
		"GET " + ada + "/passkeys":               "DELETE",
		"GET " + ada + "/sessions":               "DELETE",
		"POST /accounts/second-factor":           "GET, HEAD, PUT",
	} {
		method, path, _ := strings.Cut(request, " ")
		tests = append(tests, rejected{name: request, call: call{method: method, target: path}, status: 405, kind: "method-not-allowed", header: "Allow: " + allow})
	}
	for _, path := range []string{"/accounts", "/accounts/audit"} {
		for _, query := range []string{"limit=ten", "limit=1.5", "cursor=%zz", "limit=1&limit=2", "cursor=a&cursor=a"} {
			tests = append(tests, rejected{name: path + "?" + query, call: call{who: "grace", method: "GET", target: path + "?" + query}, status: 400, kind: "bad-request"})
		}
	}
	for _, query := range []string{"from=yesterday", "to=2026-03-01", "from=2026-03-01T12:00:00", "username=ada&username=eve", "action=a&action=b"} {
		tests = append(tests, rejected{name: "audit?" + query, call: call{who: "grace", method: "GET", target: "/accounts/audit?" + query}, status: 400, kind: "bad-request"})
	}
	admins := forAdmins()
	for name, c := range map[string]call{"create": admins["create"], "update": admins["update"], "change password": forUsers()["change password"],
		"rename passkey": forUsers()["rename passkey"]} {
		value := `"` + strings.Split(c.body, `"`)[3] + `"` // of the first member
		for fault, body := range map[string]string{
			"no members":        `{}`,
			"an unknown member": c.body[:len(c.body)-1] + `,"id":"1"}`,
			"a member is null":  strings.Replace(c.body, value, "null", 1),
			"a number":          strings.Replace(c.body, value, "12345678", 1),
			"trailing data":     c.body + "{}",
		} {
			invalid := c
			invalid.body = body
			tests = append(tests, rejected{name: name + ", " + fault, call: invalid, status: 400, kind: "bad-request"})
		}
		large, empty := c, c
		large.body += strings.Repeat(" ", maxBody+1-len(c.body))
		empty.body = ""
		tests = append(tests,
			rejected{name: name + ", too large", call: large, status: 413, kind: "too-large"},
			rejected{name: name + ", no content type", call: empty, status: 415, kind: "unsupported-media-type", header: "Accept: application/json"})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			w := f.do(test.call)
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

// wantProblem checks that w contains a problem document with the given status and kind, and no password or hash.
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

// TestStoreErrors checks the response for each error that the store can return.
func TestStoreErrors(t *testing.T) {
	away := problem.Unavailable.With("the account store is unavailable")
	calls := forAdmins()
	maps.Copy(calls, forUsers())
	for name, c := range calls {
		for _, test := range []struct {
			err    error
			status int
			kind   string
			only   string // the names of the requests that can fail with err; empty for all requests
		}{
			{err: away, status: 503, kind: "unavailable"},
			{err: errors.New("Error 1064: lovelace"), status: 500, kind: "internal"},
			{err: token.ErrStale, status: 401, kind: "unauthenticated"},
			{err: accounts.ErrLastAdmin, status: 409, kind: "conflict", only: "update delete"},
			{err: problem.Conflict.With("the user name is taken"), status: 409, kind: "conflict", only: "create"},
			{err: problem.Unprocessable.With("unknown role"), status: 422, kind: "unprocessable", only: "create update"},
		} {
			if name == "show me" || test.only != "" && !strings.Contains(test.only, name) {
				continue // showing one's account uses only Current
			}
			t.Run(name+"/"+test.kind, func(t *testing.T) {
				f := newFixture(t)
				f.store.err = test.err
				w := f.do(c)
				wantProblem(t, w, test.status, test.kind)
				if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (test.status == 401) {
					t.Errorf("got WWW-Authenticate %q with status %d", challenge, test.status)
				}
			})
		}
		t.Run(name+"/account lookup unavailable", func(t *testing.T) {
			f := newFixture(t)
			f.store.away = away
			w := f.do(c)
			wantProblem(t, w, 503, "unavailable")
			if w.Header().Get("Retry-After") == "" || f.store.calls != nil {
				t.Errorf("got Retry-After %q and the store calls %q, want a Retry-After and no calls", w.Header().Get("Retry-After"), f.store.calls)
			}
		})
	}
	for _, name := range []string{"create", "change password"} {
		f := newFixture(t)
		f.hasher.hashErr = away
		wantProblem(t, f.do(calls[name]), 503, "unavailable")
	}
}

func TestHead(t *testing.T) {
	f := newFixture(t)
	for _, target := range []string{"/accounts", "/accounts/me", "/accounts/audit", "/accounts/" + adaID} {
		if w := f.do(call{who: "grace", method: "HEAD", target: target}); w.Code != 200 {
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
		prepare   func(*fixture) // nil if the test uses the fixture as it is
		status    int
		kind      string
		outcomes  []string
	}{
		"the password is correct":      {who: "ada", body: change, status: 204, outcomes: []string{"true <nil>"}},
		"the password is wrong":        {who: "ada", body: wrong, status: 403, kind: "wrong-password", outcomes: []string{"false <nil>"}},
		"the stored hash is malformed": {who: "demoted", body: change, status: 403, kind: "wrong-password", outcomes: []string{"false <nil>"}},
		"another user has the name": {
			who: "ada", body: change,
			prepare: func(f *fixture) { f.store.renamed = true },
			status:  403, kind: "wrong-password", outcomes: []string{"false <nil>"},
		},
		"the address is blocked": {
			who: "ada", body: change,
			prepare: func(f *fixture) { f.store.blocked = true },
			status:  429, kind: "too-many-attempts",
		},
		"no hashing slot is free": {
			who: "ada", body: change,
			prepare: func(f *fixture) { f.hasher.verifyErr = away },
			status:  503, kind: "unavailable", outcomes: []string{"false " + away.Error()},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if test.prepare != nil {
				test.prepare(f)
			}
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
			w := f.do(call{who: test.who, method: "PUT", target: "/accounts/me/password", body: test.body})
			slog.SetDefault(before)
			reason := map[string]string{"wrong-password": "wrong password", "too-many-attempts": "locked"}[test.kind]
			want := fmt.Sprintf(`"event":"password.refused","reason":%q,"user_id":%q,"address":"203.0.113.9"`, reason, map[string]string{"ada": adaID, "demoted": demotedID}[test.who])
			if got := log.String(); strings.Contains(got, "password.refused") != (reason != "") || reason != "" && !strings.Contains(got, want) {
				t.Errorf("got log %s, want a line with %s only if the password is refused", got, want)
			}
			changed := slices.ContainsFunc(f.store.calls, func(call string) bool { return strings.HasPrefix(call, "change") })
			if test.status != 204 {
				wantProblem(t, w, test.status, test.kind)
			}
			if w.Code != test.status || changed != (test.status == 204) {
				t.Errorf("got %d %s and changed %t, want %d", w.Code, w.Body, changed, test.status)
			}
			if !reflect.DeepEqual(f.store.outcomes, test.outcomes) {
				t.Errorf("got outcomes %v, want %v", f.store.outcomes, test.outcomes)
			}
			if test.outcomes != nil && f.store.attempt.Address.String() != "203.0.113.9" {
				t.Errorf("the attempt was counted for %v, want the client's address", f.store.attempt.Address)
			}
			if retry := w.Header().Get("Retry-After"); test.status == 429 && retry != "90" {
				t.Errorf("got Retry-After %q, want 90", retry)
			}
		})
	}
	f := newFixture(t)
	r := f.request("ada", "PUT", "/accounts/me/password", change)
	r.Header.Set("X-Device-Token", "token")
	if f.send(r); f.store.attempt.Device != "token" {
		t.Errorf("got device token %q, want the token in the header", f.store.attempt.Device)
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
		"PUT /accounts/me/password\nContent-Type: application/json", "POST /accounts/me/passkeys\nContent-Type: application/json",
		"PATCH /accounts/me/passkeys/"+passkeyID+"\nContent-Type: application/json", "PUT /accounts/second-factor\nContent-Type: application/json")
}
