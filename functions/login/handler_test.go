package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of login against docs/openapi.yaml.
var api = contract.Of("login")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// fakeStore is an accountStore that holds users in memory. Attempt refuses attempts for blocked user names.
type fakeStore struct {
	users      map[string]accounts.User
	blocked    map[string]bool
	attemptErr error
	deviceErr  error
	replaceErr error
	sessionErr error
	stale      bool // whether an admin changes the account during the sign-in

	address  netip.Addr
	outcomes []string // the result of each comparison
	signIn   accounts.SignIn

	passkey    accounts.Passkey
	passkeyErr error
	challenges []accounts.Challenge // used challenges
	replaced   []string             // the old hash and the new hash
	changed    []string             // the hashes that ChangeAndStartSession was called with
	ended      []string             // the refresh token and the argument all, separated by a space
}

// Attempt records whether the attempt succeeded, or the error of compare.
func (s *fakeStore) Attempt(ctx context.Context, a accounts.Attempt, compare func(context.Context, accounts.User) (bool, error)) (accounts.User, error) {
	s.address = a.Address
	name, _ := accounts.CanonicalUsername(a.Username)
	if s.blocked[name] {
		return s.users[name], problem.TooManyAttempts.With("try again later").RetryAfter(90 * time.Second)
	}
	if s.attemptErr != nil {
		return accounts.User{}, s.attemptErr
	}
	u, found := s.users[name]
	if !found {
		u = accounts.User{PasswordHash: password.Dummy}
	}
	ok, err := compare(ctx, u)
	s.outcomes = append(s.outcomes, fmt.Sprint(ok, " ", err))
	if err == nil && (!ok || !found || u.Disabled) {
		err = accounts.ErrBadCredentials
	}
	return u, err
}

// DeviceToken returns the device token "device-" plus the user name, and the given token.
func (s *fakeStore) DeviceToken(u accounts.User, given string) (string, error) {
	return "device-" + u.Username + given, s.deviceErr
}

// ChangeAndStartSession accepts the recovery code "right" of ada. If the password changes, it returns the changed user
// with the next token version. It fails like the store if the account has changed.
func (s *fakeStore) ChangeAndStartSession(ctx context.Context, u accounts.User, changes accounts.Changes, in accounts.SignIn, given accounts.Lifetimes) (accounts.User, accounts.Session, string, error) {
	if code := changes.RecoveryCode; code != "" && (u.ID != adaID || code != "right") {
		return accounts.User{}, accounts.Session{}, "", accounts.ErrRecoveryCode
	}
	if changes.PasswordHash != "" {
		if now := s.users[u.Username]; s.stale || now.ID != u.ID || now.TokenVersion != u.TokenVersion {
			return accounts.User{}, accounts.Session{}, "", token.ErrStale
		}
		s.changed = append(s.changed, changes.PasswordHash)
		u.PasswordHash, u.MustChangePassword = changes.PasswordHash, false
		u.TokenVersion++
		s.users[u.Username] = u
	}
	started, refresh, err := s.StartSession(ctx, u, in, given)
	return u, started, refresh, err
}

func (s *fakeStore) ReplaceHash(_ context.Context, _, old, next string) error {
	s.replaced = append(s.replaced, old, next)
	return s.replaceErr
}

// lifetimes and session are the lifetimes and the session in the fixture.
var (
	lifetimes = accounts.Lifetimes{Total: time.Hour, Idle: time.Minute}
	session   = accounts.Session{ID: "0a0b", SignIn: accounts.SignIn{Method: accounts.MethodPassword},
		StartedAt: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
)

// StartSession returns the refresh token "refresh-" plus the user name. Each call of Refresh adds another prefix
// "refresh-".
func (s *fakeStore) StartSession(_ context.Context, u accounts.User, in accounts.SignIn, given accounts.Lifetimes) (accounts.Session, string, error) {
	if given != lifetimes {
		return accounts.Session{}, "", errors.New("the lifetimes differ from the settings")
	}
	s.signIn = in
	started := session
	started.SignIn = in
	return started, "refresh-" + u.Username, s.sessionErr
}

func (s *fakeStore) Refresh(_ context.Context, refresh string, given accounts.Lifetimes) (accounts.User, accounts.Session, string, error) {
	u, ok := s.users[strings.ReplaceAll(refresh, "refresh-", "")]
	if !ok || given != lifetimes {
		return u, accounts.Session{}, "", accounts.ErrSessionEnded
	}
	return u, session, "refresh-" + refresh, s.sessionErr
}

func (s *fakeStore) EndSession(_ context.Context, refresh string, all bool, from accounts.Actor) error {
	s.address = from.Address
	s.ended = append(s.ended, fmt.Sprint(refresh, " ", all))
	return s.sessionErr
}

// fakeHasher records the hashes that it verifies. The hash of a password is the password in brackets. An outdated hash
// is the password in braces.
type fakeHasher struct {
	verified []string // the hashes that Verify was called with
	err      error
}

func (h *fakeHasher) Hash(_ context.Context, given string) (string, error) {
	return "[" + given + "]", h.err
}

func (h *fakeHasher) Verify(_ context.Context, hash, given string) (ok, rehash bool, err error) {
	h.verified = append(h.verified, hash)
	if hash == "malformed" {
		return false, false, password.ErrMalformed
	}
	old := hash == "{"+given+"}"
	return hash == "["+given+"]" || old, old, h.err
}

// fixture is the login handler with fake dependencies and a real signer. Its responses are checked against
// docs/openapi.yaml.
type fixture struct {
	http.Handler
	trust    client.Trust
	store    *fakeStore
	hasher   *fakeHasher
	verifier *token.Verifier
}

const (
	adaID = "0195a3f0-0000-7000-8000-00000000ada0"
	eveID = "0195a3f0-0000-7000-8000-0000000000e5"
)

func newFixture(t *testing.T, trustedHops int) *fixture {
	t.Helper()
	return newFixtureWithKey(t, trustedHops, testKey)
}

// newFixtureWithKey returns a fixture with another key of the gateway.
func newFixtureWithKey(t *testing.T, trustedHops int, key string) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	store := &fakeStore{
		users: map[string]accounts.User{
			"ada":    {ID: adaID, Username: "ada", PasswordHash: "[lovelace-1843]", Role: "user", TokenVersion: 3},
			"grace":  {ID: "0195a3f0-0000-7000-8000-000000000001", Username: "grace", PasswordHash: "[murray-hopper-1906]", Role: "admin", TokenVersion: 1},
			"old":    {ID: "0195a3f0-0000-7000-8000-000000000002", Username: "old", PasswordHash: "{old-hash}", Role: "user", TokenVersion: 1},
			"gone":   {ID: "0195a3f0-0000-7000-8000-000000000003", Username: "gone", PasswordHash: "[lovelace-1843]", Role: "user", Disabled: true},
			"locked": {ID: "0195a3f0-0000-7000-8000-000000000004", Username: "locked", PasswordHash: "[lovelace-1843]", Role: "user"},
			"eve":    {ID: eveID, Username: "eve", PasswordHash: "[first password]", Role: "user", MustChangePassword: true, TokenVersion: 1},
			"broken": {ID: "0195a3f0-0000-7000-8000-000000000005", Username: "broken", PasswordHash: "malformed", Role: "user"},
		},
		blocked: map[string]bool{"locked": true},
	}
	hasher := &fakeHasher{}
	policy, err := password.PolicySettings{MinLength: 12}.Policy()
	if err != nil {
		t.Fatal(err)
	}
	trust := client.Trust{Hops: trustedHops, Key: []byte(key)}
	handler := trust.Identify(function.Wrap(newHandler(store, hasher, signer, policy, trust, lifetimes), time.Minute))
	return &fixture{api.Handler(t, handler), trust, store, hasher, verifier}
}

// do sends a request as the gateway does for a client at 192.0.2.1.
func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	r.Header.Set("X-Forwarded-Host", r.Host)
	f.trust.Introduce(r.Header, &request.Origin{ID: "request-1", Address: netip.MustParseAddr("192.0.2.1")})
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

func post(contentType, body string) *http.Request {
	r := httptest.NewRequest("POST", "/login", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

func basic(userinfo string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userinfo))
}

func TestLogin(t *testing.T) {
	const asJSON, asForm = `{"username":"ada","password":"lovelace-1843"}`, "username=ada&password=lovelace-1843"
	requests := map[string]*http.Request{
		"JSON":             post(typeJSON, asJSON),
		"JSON in UTF-8":    post("application/json; charset=UTF-8", " "+asJSON+"\n"),
		"form":             post(typeForm, asForm),
		"upper-case name":  post(typeJSON, `{"username":"ADA","password":"lovelace-1843"}`),
		"space after name": post(typeJSON, `{"username":"ada ","password":"lovelace-1843"}`),
		"space before":     post(typeForm, "username=%C2%A0ada&password=lovelace-1843"), // a no-break space
		"other query":      post(typeJSON, asJSON),
		"path /":           post(typeJSON, asJSON),
		"Basic":            post("", ""),
		"Basic, typed":     post(typeJSON, ""),
		"old access token": post(typeJSON, asJSON),
		"device token":     post(typeJSON, asJSON),
	}
	requests["other query"].URL.RawQuery = "next=%2Ffiles"
	requests["path /"].URL.Path = "/"
	requests["Basic"].Header.Set("Authorization", basic("ada:lovelace-1843"))
	requests["Basic, typed"].Header.Set("Authorization", basic("ada:lovelace-1843"))
	requests["old access token"].Header.Set("Authorization", "Bearer old")
	requests["device token"].Header.Set("X-Device-Token", "-given")
	for name, r := range requests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			r.Header.Set("User-Agent", "curl/8.5.0")
			w := f.do(r)
			var got answer
			if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != 200 || err != nil {
				t.Fatalf("got %d %s, error %v; want 200 and JSON", w.Code, w.Body, err)
			}
			if got, want := w.Header().Get("Cache-Control"), "no-store"; got != want {
				t.Errorf("got Cache-Control %q, want %q", got, want)
			}
			claims, err := f.verifier.Verify(got.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			if claims.Subject != adaID || claims.Username != "ada" || claims.Version != 3 || claims.Scope != "files:read files:write" {
				t.Errorf("got claims %+v, want those of ada", claims)
			}
			if claims.Session != session.ID || !claims.AuthTime.Equal(session.StartedAt) || claims.ACR != token.ACRPassword {
				t.Errorf("got claims %+v, want the sign-in of the session %+v", claims, session)
			}
			in := accounts.SignIn{Method: accounts.MethodPassword, Address: netip.MustParseAddr("192.0.2.1"), Device: "curl/8.5.0"}
			if f.store.signIn != in {
				t.Errorf("got the sign-in %+v, want %+v", f.store.signIn, in)
			}
			got.AccessToken = ""
			want := answer{TokenType: "Bearer", ExpiresIn: 900, RefreshToken: "refresh-ada", Scope: "files:read files:write", User: user{adaID, "ada", []string{"user"}}, DeviceToken: "device-ada"}
			if name == "device token" {
				want.DeviceToken = "device-ada-given"
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got response %+v, want %+v", got, want)
			}
			if want := []string{"true <nil>"}; !reflect.DeepEqual(f.store.outcomes, want) {
				t.Errorf("got outcomes %v, want %v", f.store.outcomes, want)
			}
			if len(f.hasher.verified) != 1 {
				t.Errorf("got %d verified hashes, want 1", len(f.hasher.verified))
			}
		})
	}
}

func TestLoginAsAdmin(t *testing.T) {
	f := newFixture(t, 0)
	w := f.do(post(typeJSON, `{"username":"grace","password":"murray-hopper-1906"}`))
	if want := `"scope":"files:read files:write files:any accounts:manage","user":{"id":"0195a3f0-0000-7000-8000-000000000001","username":"grace","roles":["admin"]},"device_token":"device-grace"}`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("got %d %s, want a body that contains %s", w.Code, w.Body, want)
	}
}

// All invalid credentials have the same response body and cost exactly one hash, whatever the reason.
func TestBadCredentials(t *testing.T) {
	var bodies []string
	for name, test := range map[string]struct {
		username, password string
		compared           string // the hash that is verified
	}{
		"wrong password":        {username: "ada", password: "babbage-1822", compared: "[lovelace-1843]"},
		"empty password":        {username: "ada", password: "", compared: "[lovelace-1843]"},
		"unknown user":          {username: "mallory", password: "lovelace-1843", compared: password.Dummy},
		"disabled user":         {username: "gone", password: "lovelace-1843", compared: "[lovelace-1843]"},
		"disabled user, wrong":  {username: "gone", password: "babbage-1822", compared: "[lovelace-1843]"},
		"malformed hash":        {username: "broken", password: "malformed", compared: "malformed"},
		"empty user name":       {username: "", password: "lovelace-1843", compared: password.Dummy},
		"user name with a NUL":  {username: "a\u0000da", password: "lovelace-1843", compared: password.Dummy},
		"user name of spaces":   {username: "  ", password: "lovelace-1843", compared: password.Dummy},
		"password with a space": {username: "ada", password: "lovelace-1843 ", compared: "[lovelace-1843]"},
		"user name too long":    {username: strings.Repeat("a", 2000), password: "lovelace-1843", compared: password.Dummy},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			body, err := json.Marshal(map[string]string{"username": test.username, "password": test.password})
			if err != nil {
				t.Fatal(err)
			}
			w := f.do(post(typeJSON, string(body)))
			if w.Code != 401 {
				t.Errorf("got status %d, want 401", w.Code)
			}
			if got, want := w.Header().Get("WWW-Authenticate"), `Basic realm="strongroom", charset="UTF-8"`; got != want {
				t.Errorf("got WWW-Authenticate %s, want %s", got, want)
			}
			bodies = append(bodies, w.Body.String())
			if want := []string{test.compared}; !reflect.DeepEqual(f.hasher.verified, want) {
				t.Errorf("got verified hashes %q, want %q", f.hasher.verified, want)
			}
		})
	}
	for _, body := range bodies {
		if body != bodies[0] {
			t.Errorf("got different bodies %s and %s, want equal bodies", body, bodies[0])
		}
	}
}

// TestPasswordChange checks that a user who must change the password gets tokens only with a new password, and that the
// new password is stored only after a correct password. A refused new password costs no attempt. Each other request
// that is not blocked verifies exactly one hash.
func TestPasswordChange(t *testing.T) {
	const first, next = "first password", "analytical-engine"
	for name, test := range map[string]struct {
		username, password, next string
		stale                    bool
		status                   int
		kind                     string // of the problem
		detail                   string // a part of the detail of the problem
		verified                 int
		version                  int // of the account, in the access token
	}{
		"must change":                   {username: "eve", password: first, status: 403, kind: "password-change-required", detail: "new_password", verified: 1},
		"must change, wrong password":   {username: "eve", password: "wrong", status: 401, kind: "bad-credentials", verified: 1},
		"changed":                       {username: "eve", password: first, next: next, status: 200, verified: 1, version: 2},
		"changed, wrong password":       {username: "eve", password: "wrong", next: next, status: 401, kind: "bad-credentials", verified: 1},
		"changed, disabled user":        {username: "gone", password: "lovelace-1843", next: next, status: 401, kind: "bad-credentials", verified: 1},
		"changed, unknown user":         {username: "mallory", password: "lovelace-1843", next: next, status: 401, kind: "bad-credentials", verified: 1},
		"changed, locked user":          {username: "locked", password: "lovelace-1843", next: next, status: 429, kind: "too-many-attempts"},
		"changed without need":          {username: "ada", password: "lovelace-1843", next: next, status: 200, verified: 1, version: 4},
		"changed, reset at that moment": {username: "eve", password: first, next: next, stale: true, status: 401, kind: "bad-credentials", verified: 1},
		"same password":                 {username: "eve", password: first, next: first, status: 422, kind: "unprocessable", detail: "differ"},
		"same password, wrong":          {username: "eve", password: next, next: next, status: 422, kind: "unprocessable", detail: "differ"},
		"too short":                     {username: "eve", password: first, next: "elevenchars", status: 422, kind: "unprocessable", detail: "12 to 128"},
		"breached":                      {username: "eve", password: first, next: "1qaz2wsx3edc", status: 422, kind: "unprocessable", detail: "breached"},
		"user name":                     {username: "EVE ", password: first, next: "eve-eve-eve-eve", status: 422, kind: "unprocessable", detail: "user name"},
		"empty":                         {username: "eve", password: first, next: "EMPTY", status: 422, kind: "unprocessable", detail: "12 to 128"},
	} {
		members := map[string]string{"username": test.username, "password": test.password}
		form := url.Values{"username": {test.username}, "password": {test.password}}
		if test.next != "" {
			members["new_password"] = strings.TrimPrefix(test.next, "EMPTY")
			form.Set("new_password", members["new_password"])
		}
		asJSON, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		for kind, body := range map[string]string{typeJSON: string(asJSON), typeForm: form.Encode()} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				f := newFixture(t, 0)
				f.store.stale = test.stale
				w := f.do(post(kind, body))
				if w.Code != test.status || len(f.hasher.verified) != test.verified {
					t.Fatalf("got %d %s and %d verified hashes, want %d and %d", w.Code, w.Body, len(f.hasher.verified), test.status, test.verified)
				}
				if test.status != 200 {
					if !strings.Contains(w.Body.String(), "urn:strongroom:problem:"+test.kind+`"`) || !strings.Contains(w.Body.String(), test.detail) {
						t.Errorf("got %s, want the problem %s with %q in the detail", w.Body, test.kind, test.detail)
					}
					if f.store.changed != nil || strings.Contains(w.Body.String(), "access_token") {
						t.Errorf("got the new hashes %q and the response %s, want no change and no token", f.store.changed, w.Body)
					}
					return
				}
				var got answer
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
					t.Fatal(err)
				}
				claims, err := f.verifier.Verify(got.AccessToken)
				if err != nil || claims.Version != test.version {
					t.Errorf("got claims %+v and error %v, want version %d", claims, err, test.version)
				}
				if want := []string{"[" + test.next + "]"}; !reflect.DeepEqual(f.store.changed, want) {
					t.Errorf("got the new hashes %q, want %q", f.store.changed, want)
				}
				if f.store.signIn.Address.String() != "192.0.2.1" {
					t.Errorf("got the sign-in %+v, want the address of the client", f.store.signIn)
				}
				// The account now has the new password.
				if w := f.do(post(typeForm, url.Values{"username": {test.username}, "password": {test.next}}.Encode())); w.Code != 200 {
					t.Errorf("sign-in with the new password: got %d %s, want 200", w.Code, w.Body)
				}
			})
		}
	}
}

func TestTooManyAttempts(t *testing.T) {
	for _, given := range []string{"lovelace-1843", "wrong"} {
		f := newFixture(t, 0)
		w := f.do(post(typeForm, "username=locked&password="+given))
		if w.Code != 429 || w.Header().Get("Retry-After") != "90" {
			t.Errorf("got status %d and Retry-After %s, want 429 and 90", w.Code, w.Header().Get("Retry-After"))
		}
		if f.hasher.verified != nil {
			t.Errorf("got verified hashes %q, want none", f.hasher.verified)
		}
	}
}

func TestUnavailable(t *testing.T) {
	away := problem.Unavailable.With("down")
	for name, test := range map[string]struct {
		username string
		fail     func(*fixture)
		hashes   int
	}{
		"store down":              {username: "ada", fail: func(f *fixture) { f.store.attemptErr = away }},
		"hasher busy":             {username: "ada", fail: func(f *fixture) { f.hasher.err = away }, hashes: 1},
		"store down after Verify": {username: "ada", fail: func(f *fixture) { f.store.sessionErr = away }, hashes: 1},
		"no device token":         {username: "ada", fail: func(f *fixture) { f.store.deviceErr = away }, hashes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			test.fail(f)
			w := f.do(post(typeJSON, `{"username":"`+test.username+`","password":"lovelace-1843"}`))
			if w.Code != 503 || w.Header().Get("Retry-After") == "" {
				t.Errorf("got status %d and Retry-After %q, want 503 and any value", w.Code, w.Header().Get("Retry-After"))
			}
			if len(f.hasher.verified) != test.hashes {
				t.Errorf("got %d verified hashes, want %d", len(f.hasher.verified), test.hashes)
			}
		})
	}
}

func TestRehash(t *testing.T) {
	for name, fail := range map[string]error{"replaced": nil, "conflict": problem.Conflict.With("changed")} {
		f := newFixture(t, 0)
		f.store.replaceErr = fail
		if w := f.do(post(typeJSON, `{"username":"old","password":"old-hash"}`)); w.Code != 200 {
			t.Errorf("%s: got %d %s, want 200", name, w.Code, w.Body)
		}
		if want := []string{"{old-hash}", "[old-hash]"}; !reflect.DeepEqual(f.store.replaced, want) {
			t.Errorf("%s: got replaced hashes %q, want %q", name, f.store.replaced, want)
		}
	}
	f := newFixture(t, 0)
	f.do(post(typeJSON, `{"username":"old","password":"wrong"}`))
	f.do(post(typeJSON, `{"username":"ada","password":"lovelace-1843"}`))
	if f.store.replaced != nil {
		t.Errorf("got replaced hashes %q after a wrong password and for a current hash, want none", f.store.replaced)
	}
}

func TestAttemptsAreCountedUnderTheClientsAddress(t *testing.T) {
	for hops, want := range []string{"192.0.2.1", "203.0.113.9", "10.0.0.1"} {
		f := newFixture(t, hops)
		r := post(typeJSON, `{"username":"ada","password":"lovelace-1843"}`)
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header.Set("X-Forwarded-For", "10.0.0.1, 203.0.113.9")
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, r); w.Code != 200 || f.store.address.String() != want {
			t.Errorf("%d hops: got status %d and client address %v, want 200 and %s", hops, w.Code, f.store.address, want)
		}
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler { return newFixture(t, 0) }, http.StatusRequestTimeout,
		"POST /\nContent-Type: "+typeJSON, "POST /login\nContent-Type: "+typeJSON, "POST /login\nContent-Type: "+typeForm, "POST /login",
		"POST /login\nAuthorization: Basic YWRhOmxvdmVsYWNlLTE4NDM=", "POST /refresh\nContent-Type: "+typeJSON, "POST /refresh\nContent-Type: "+typeForm,
		"POST /login/passkey\nContent-Type: "+typeJSON, "POST /logout\nContent-Type: "+typeJSON, "POST /logout?scope=all\nContent-Type: "+typeForm)
}
