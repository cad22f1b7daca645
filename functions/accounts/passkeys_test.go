package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/passkey/passkeytest"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// testKey is the key of the gateway in the tests.
	testKey     = "the key of the gateway, 32 bytes"
	passkeyID   = "0195a3f0-0000-7000-8000-00000000ca5e"
	passkeyJSON = `{"id":"` + passkeyID + `","name":"Laptop","domain":"files.example","created_at":"2026-03-01T12:00:00Z","used_at":"2026-03-01T12:00:00Z"}`
)

// codes are the recovery codes that fakeStore creates.
var codes = strings.Split(strings.Repeat("AAAA-BBBB-CCCC-DDDD-EEEE-FFFF ", 10)[:299], " ")

// laptop is the only passkey in fakeStore. It belongs to ada.
func laptop() accounts.Passkey {
	return accounts.Passkey{ID: passkeyID, UserID: adaID, CredentialID: []byte{1}, Credential: []byte(`{"id":"AQ=="}`), Party: "files.example",
		Name: "Laptop", CreatedAt: noon, UsedAt: noon}
}

func (s *fakeStore) Passkeys(context.Context, string) ([]accounts.Passkey, int, error) {
	return []accounts.Passkey{laptop()}, 9, s.err
}

func (s *fakeStore) AddPasskey(_ context.Context, by accounts.Actor, p accounts.Passkey, c accounts.Challenge) (accounts.Passkey, error) {
	if s.challenge == c {
		return accounts.Passkey{}, accounts.ErrChallengeUsed
	}
	s.challenge, s.by, s.calls = c, by, append(s.calls, "add "+p.Name+" for "+p.Party)
	p.ID, p.CreatedAt = passkeyID, noon
	return p, s.err
}

func (s *fakeStore) RenamePasskey(_ context.Context, by accounts.Actor, id, name string) (accounts.Passkey, error) {
	p := laptop()
	if id != p.ID {
		return p, problem.NotFound.With("no such passkey")
	}
	p.Name = name
	s.by, s.calls = by, append(s.calls, "rename "+id+" "+name)
	return p, s.err
}

func (s *fakeStore) RemovePasskey(_ context.Context, by accounts.Actor, id string) error {
	if id != passkeyID {
		return problem.NotFound.With("no such passkey")
	}
	s.by, s.calls = by, append(s.calls, "remove "+id)
	return s.err
}

func (s *fakeStore) RemovePasskeys(_ context.Context, by accounts.Actor, userID string) error {
	if _, ok := s.users[userID]; !ok {
		return problem.NotFound.With("no such user")
	}
	s.by, s.calls = by, append(s.calls, "remove all of "+userID)
	return s.err
}

func (s *fakeStore) ReplaceRecoveryCodes(_ context.Context, by accounts.Actor) ([]string, error) {
	s.by, s.calls = by, append(s.calls, "codes")
	return codes, s.err
}

func (s *fakeStore) SecondFactors(context.Context) ([]string, error) { return s.roles, s.err }

func (s *fakeStore) SetSecondFactors(_ context.Context, by accounts.Actor, roles []string) error {
	s.by, s.roles, s.calls = by, roles, append(s.calls, fmt.Sprint("second factor for ", roles))
	return s.err
}

// sendTo sends a request with the access token named who to the host files.example.
func (f *fixture) sendTo(who, method, path, body string) *httptest.ResponseRecorder {
	return f.send(f.request(who, method, "https://files.example"+path, body))
}

// TestAddPasskey checks the responses to registrations of a passkey.
func TestAddPasskey(t *testing.T) {
	const path = "/accounts/me/passkeys"
	for name, test := range map[string]struct {
		change func(f *fixture, a *passkeytest.Authenticator)
		who    string // the caller of the second request; the default is ada
		body   string // instead of a valid body
		status int
		want   string // a part of the response body
	}{
		"valid":             {status: 201, want: `{"id":"` + passkeyID + `","name":"Phone","domain":"files.example","created_at":"2026-03-01T12:00:00Z"}`},
		"another user":      {who: "grace", status: 422, want: "unprocessable"},
		"user not verified": {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Unverified = true }, status: 422, want: "unprocessable"},
		"wrong origin":      {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Origin = "https://evil.example" }, status: 422, want: "unprocessable"},
		"too many passkeys": {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.err = problem.Conflict.With("too many") }, status: 409, want: "conflict"},
		"store down":        {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.err = problem.Unavailable.With("down") }, status: 503, want: "unavailable"},
		"no name":           {body: `{"credential":{}}`, status: 400, want: "bad-request"},
		"empty credential":  {body: `{"credential":{},"name":"x"}`, status: 422, want: "unprocessable"},
		"too large":         {body: `{"credential":{"id":"` + strings.Repeat("x", 16<<10) + `"},"name":"x"}`, status: 413, want: "too-large"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			w := f.sendTo("ada", "POST", path+"/options", "")
			if w.Code != 200 || !strings.Contains(w.Body.String(), `"excludeCredentials":[{"type":"public-key","id":"AQ"}]`) {
				t.Fatalf("options: got %d %s, want 200 and the existing passkey", w.Code, w.Body)
			}
			a := passkeytest.New(t, "https://files.example")
			if test.change != nil {
				test.change(f, a)
			}
			body, who := test.body, "ada"
			if body == "" {
				body = `{"credential":` + string(a.Create(t, w.Body.Bytes())) + `,"name":"Phone"}`
			}
			if test.who != "" {
				who = test.who
			}
			if w = f.sendTo(who, "POST", path, body); w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d and a body that contains %s", w.Code, w.Body, test.status, test.want)
			}
			if test.status != http.StatusCreated {
				return
			}
			if w = f.sendTo(who, "POST", path, body); w.Code != 422 {
				t.Errorf("the same response again: got %d %s, want 422", w.Code, w.Body)
			}
		})
	}
}

// TestRestrictedCallers checks which requests are refused because the caller's sign-in did not include a second factor
// that the caller's role requires, or because the sign-in was too long ago.
func TestRestrictedCallers(t *testing.T) {
	admins, users := forAdmins(), forUsers()
	set := func(who, roles string) call {
		return call{who: who, method: "PUT", target: "/accounts/second-factor", body: `{"roles":[` + roles + `]}`}
	}
	add := call{who: "ada", method: "POST", target: "/accounts/me/passkeys", body: `{"credential":{},"name":"x"}`}
	by := func(who string, c call) call { c.who = who; return c }
	for name, test := range map[string]struct {
		required, hasPasskey bool
		call                 call
		status               int
		kind                 string
	}{
		"user with the password":                            {required: true, hasPasskey: true, call: users["show me"], status: 200},
		"user with the password lists passkeys":             {required: true, hasPasskey: true, call: users["list passkeys"], status: 200},
		"user with the password begins to add a passkey":    {required: true, hasPasskey: true, call: users["passkey options"], status: 403, kind: "second-factor-required"},
		"user with the password adds a passkey":             {required: true, hasPasskey: true, call: add, status: 403, kind: "second-factor-required"},
		"user with the password renames a passkey":          {required: true, hasPasskey: true, call: users["rename passkey"], status: 403, kind: "second-factor-required"},
		"user with the password removes a passkey":          {required: true, hasPasskey: true, call: users["remove passkey"], status: 403, kind: "second-factor-required"},
		"user with the password creates codes":              {required: true, hasPasskey: true, call: users["create recovery codes"], status: 403, kind: "second-factor-required"},
		"user with the passkey removes it":                  {required: true, hasPasskey: true, call: by("passkey", users["remove passkey"]), status: 204},
		"user without a passkey begins to add a passkey":    {required: true, call: users["passkey options"], status: 200},
		"admin with the password lists accounts":            {required: true, hasPasskey: true, call: admins["list"], status: 403, kind: "insufficient-scope"},
		"admin without a passkey lists accounts":            {required: true, call: admins["list"], status: 403, kind: "insufficient-scope"},
		"admin with the passkey lists accounts":             {required: true, hasPasskey: true, call: by("admin passkey", admins["list"]), status: 200},
		"admin with the password requires it for admins":    {call: set("grace", `"user","admin"`), status: 403, kind: "second-factor-required"},
		"admin with the passkey requires it for admins":     {call: set("admin passkey", `"user","admin"`), status: 200},
		"admin removes passkeys too long after the sign-in": {call: by("late", admins["remove passkeys"]), status: 401, kind: "sign-in-too-old"},
		"admin requires it too long after the sign-in":      {call: set("late", `"user"`), status: 401, kind: "sign-in-too-old"},
		"too long after the sign-in, add a passkey, end":    {call: by("late", add), status: 401, kind: "sign-in-too-old"},
		"too long after the sign-in, add a passkey":         {call: by("late", users["passkey options"]), status: 401, kind: "sign-in-too-old"},
		"too long after the sign-in, remove a passkey":      {call: by("late", users["remove passkey"]), status: 401, kind: "sign-in-too-old"},
		"too long after the sign-in, create codes":          {call: by("late", users["create recovery codes"]), status: 401, kind: "sign-in-too-old"},
		"too long after the sign-in, list passkeys":         {call: by("late", users["list passkeys"]), status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for _, id := range []string{adaID, graceID} {
				u := f.store.users[id]
				u.SecondFactor, u.HasPasskey = test.required, test.hasPasskey
				f.store.users[id] = u
			}
			test.call.target = "https://files.example" + test.call.target
			w := f.do(test.call)
			if test.kind != "" {
				wantProblem(t, w, test.status, test.kind)
				if f.store.calls != nil {
					t.Errorf("got the store calls %q, want none", f.store.calls)
				}
			} else if w.Code != test.status {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, test.status)
			}
		})
	}
}

// TestPasskeyProblems checks the responses to errors of the store, and to requests for passkeys and roles that do not
// exist.
func TestPasskeyProblems(t *testing.T) {
	admins, users := forAdmins(), forUsers()
	const other = "/accounts/me/passkeys/" + newID
	for name, test := range map[string]struct {
		call   call
		err    error
		status int
		kind   string
	}{
		"rename of an unknown passkey":   {call: call{"ada", "PATCH", other, `{"name":"x"}`}, status: 404, kind: "not-found"},
		"invalid name":                   {call: users["rename passkey"], err: problem.Unprocessable.With("name"), status: 422, kind: "unprocessable"},
		"removal of an unknown passkey":  {call: call{"ada", "DELETE", other, ""}, status: 404, kind: "not-found"},
		"codes without a passkey":        {call: users["create recovery codes"], err: problem.Conflict.With("no passkey"), status: 409, kind: "conflict"},
		"unknown user":                   {call: call{"grace", "DELETE", "/accounts/" + newID + "/passkeys", ""}, status: 404, kind: "not-found"},
		"unknown role":                   {call: admins["set second factors"], err: problem.Unprocessable.With("role"), status: 422, kind: "unprocessable"},
		"roles are not a list":           {call: call{"grace", "PUT", "/accounts/second-factor", `{"roles":"user"}`}, status: 400, kind: "bad-request"},
		"roles as a form":                {call: call{"grace", "PUT", "/accounts/second-factor", ""}, status: 415, kind: "unsupported-media-type"},
		"roles are too large":            {call: call{"grace", "PUT", "/accounts/second-factor", `{"roles":["` + strings.Repeat("x", maxBody) + `"]}`}, status: 413, kind: "too-large"},
		"passkey as a form":              {call: call{"ada", "POST", "/accounts/me/passkeys", ""}, status: 415, kind: "unsupported-media-type"},
		"passkey options, invalid query": {call: call{"ada", "POST", "/accounts/me/passkeys/options?x=%zz", ""}, status: 400, kind: "bad-request"},
		"passkeys, internal error":       {call: users["list passkeys"], err: errors.New("test error"), status: 500, kind: "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.store.err = test.err
			wantProblem(t, f.do(test.call), test.status, test.kind)
		})
	}
}
