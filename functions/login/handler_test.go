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
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of login against docs/openapi.yaml.
var api = contract.Of("login")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// fakeStore is an accountStore that holds users in memory. Reserve refuses attempts for blocked user names.
type fakeStore struct {
	users      map[string]accounts.User
	blocked    map[string]bool
	reserveErr error
	findErr    error
	settleErr  error
	replaceErr error
	sessionErr error

	address  netip.Addr
	outcomes []accounts.Outcome
	replaced []string // the old hash and the new hash
	ended    []string // the refresh token and the argument all, separated by a space
}

func (s *fakeStore) Reserve(_ context.Context, username string, address netip.Addr) (accounts.Settle, error) {
	s.address = address
	name, err := accounts.CanonicalUsername(username)
	if err != nil {
		return nil, err
	}
	if s.blocked[name] {
		return nil, problem.TooManyAttempts.With("try again later").RetryAfter(90 * time.Second)
	}
	return func(ctx context.Context, outcome accounts.Outcome) error {
		s.outcomes = append(s.outcomes, outcome)
		return errors.Join(ctx.Err(), s.settleErr)
	}, s.reserveErr
}

func (s *fakeStore) ByUsername(_ context.Context, username string) (accounts.User, error) {
	name, err := accounts.CanonicalUsername(username)
	user, ok := s.users[name]
	if err == nil && !ok {
		err = problem.NotFound.With("the user does not exist")
	}
	return user, errors.Join(err, s.findErr)
}

func (s *fakeStore) ReplaceHash(_ context.Context, _, old, next string) error {
	s.replaced = append(s.replaced, old, next)
	return s.replaceErr
}

// StartSession returns the refresh token "refresh-" plus the user name. Each call of Refresh adds another prefix "refresh-".
func (s *fakeStore) StartSession(_ context.Context, u accounts.User, lifetime time.Duration) (string, error) {
	if lifetime != time.Hour {
		return "", errors.New("the lifetime differs from the setting")
	}
	return "refresh-" + u.Username, s.sessionErr
}

func (s *fakeStore) Refresh(_ context.Context, refresh string) (accounts.User, string, error) {
	u, ok := s.users[strings.ReplaceAll(refresh, "refresh-", "")]
	if !ok {
		return u, "", accounts.ErrSessionEnded
	}
	return u, "refresh-" + refresh, s.sessionErr
}

func (s *fakeStore) EndSession(_ context.Context, refresh string, all bool, from accounts.Actor) error {
	s.address = from.Address
	s.ended = append(s.ended, fmt.Sprint(refresh, " ", all))
	return s.sessionErr
}

// fakeHasher records the hashes that it verifies. The hash of a password is the password in brackets. An outdated hash is the
// password in braces.
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
	store    *fakeStore
	hasher   *fakeHasher
	verifier *token.Verifier
}

const adaID = "0195a3f0-0000-7000-8000-00000000ada0"

func newFixture(t *testing.T, trustedHops int) *fixture {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	store := &fakeStore{
		users: map[string]accounts.User{
			"ada":    {ID: adaID, Username: "ada", PasswordHash: "[lovelace-1843]", Role: "user", TokenVersion: 3},
			"grace":  {ID: "0195a3f0-0000-7000-8000-000000000001", Username: "grace", PasswordHash: "[hopper-1906]", Role: "admin", TokenVersion: 1},
			"old":    {ID: "0195a3f0-0000-7000-8000-000000000002", Username: "old", PasswordHash: "{old-hash}", Role: "user", TokenVersion: 1},
			"gone":   {ID: "0195a3f0-0000-7000-8000-000000000003", Username: "gone", PasswordHash: "[lovelace-1843]", Role: "user", Disabled: true},
			"locked": {ID: "0195a3f0-0000-7000-8000-000000000004", Username: "locked", PasswordHash: "[lovelace-1843]", Role: "user"},
			"broken": {ID: "0195a3f0-0000-7000-8000-000000000005", Username: "broken", PasswordHash: "malformed", Role: "user"},
		},
		blocked: map[string]bool{"locked": true},
	}
	hasher := &fakeHasher{}
	handler := function.Wrap(newHandler(store, hasher, signer, client.Trust{Hops: trustedHops}, time.Hour), time.Minute)
	return &fixture{api.Handler(t, handler), store, hasher, verifier}
}

func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	r.Header.Set("X-Request-Id", "request-1")
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
		"other query":      post(typeJSON, asJSON),
		"path /":           post(typeJSON, asJSON),
		"Basic":            post("", ""),
		"Basic, typed":     post(typeJSON, ""),
		"old access token": post(typeJSON, asJSON),
	}
	requests["other query"].URL.RawQuery = "next=%2Ffiles"
	requests["path /"].URL.Path = "/"
	requests["Basic"].Header.Set("Authorization", basic("ada:lovelace-1843"))
	requests["Basic, typed"].Header.Set("Authorization", basic("ada:lovelace-1843"))
	requests["old access token"].Header.Set("Authorization", "Bearer old")
	for name, r := range requests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
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
			got.AccessToken = ""
			want := answer{TokenType: "Bearer", ExpiresIn: 900, RefreshToken: "refresh-ada", Scope: "files:read files:write", User: user{adaID, "ada", []string{"user"}}}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got response %+v, want %+v", got, want)
			}
			if want := []accounts.Outcome{accounts.Succeeded}; !reflect.DeepEqual(f.store.outcomes, want) {
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
	w := f.do(post(typeJSON, `{"username":"grace","password":"hopper-1906"}`))
	if want := `"scope":"files:read files:write files:any accounts:manage","user":{"id":"0195a3f0-0000-7000-8000-000000000001","username":"grace","roles":["admin"]}}`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("got %d %s, want a body that contains %s", w.Code, w.Body, want)
	}
}

// All invalid credentials have the same response body and cost exactly one hash, whatever the reason.
func TestBadCredentials(t *testing.T) {
	var bodies []string
	for name, test := range map[string]struct {
		username, password string
		compared           string // the hash that is verified
		counted            bool   // whether the attempt counts as failed; attempts for invalid user names are not counted
	}{
		"wrong password":         {username: "ada", password: "babbage-1822", compared: "[lovelace-1843]", counted: true},
		"empty password":         {username: "ada", password: "", compared: "[lovelace-1843]", counted: true},
		"unknown user":           {username: "eve", password: "lovelace-1843", compared: password.Dummy, counted: true},
		"disabled user":          {username: "gone", password: "lovelace-1843", compared: "[lovelace-1843]", counted: true},
		"disabled user, wrong":   {username: "gone", password: "babbage-1822", compared: "[lovelace-1843]", counted: true},
		"malformed hash":         {username: "broken", password: "malformed", compared: "malformed", counted: true},
		"empty user name":        {username: "", password: "lovelace-1843", compared: password.Dummy},
		"user name with a NUL":   {username: "a\u0000da", password: "lovelace-1843", compared: password.Dummy},
		"user name with a space": {username: "ada ", password: "lovelace-1843", compared: password.Dummy},
		"user name too long":     {username: strings.Repeat("a", 2000), password: "lovelace-1843", compared: password.Dummy},
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
			if want := []accounts.Outcome{accounts.Failed}; test.counted && !reflect.DeepEqual(f.store.outcomes, want) || !test.counted && f.store.outcomes != nil {
				t.Errorf("got outcomes %v, want a failure: %t", f.store.outcomes, test.counted)
			}
		})
	}
	for _, body := range bodies {
		if body != bodies[0] {
			t.Errorf("got different bodies %s and %s, want equal bodies", body, bodies[0])
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
		if want := []string{password.Dummy}; !reflect.DeepEqual(f.hasher.verified, want) {
			t.Errorf("got verified hashes %q, want only password.Dummy", f.hasher.verified)
		}
	}
}

func TestUnavailable(t *testing.T) {
	away := problem.Unavailable.With("down")
	for name, test := range map[string]struct {
		username string
		fail     func(*fixture)
		hashes   int
		outcomes []accounts.Outcome
	}{
		"store down":               {username: "ada", fail: func(f *fixture) { f.store.reserveErr = away }},
		"store down after Reserve": {username: "ada", fail: func(f *fixture) { f.store.findErr = away }, outcomes: []accounts.Outcome{accounts.Undecided}},
		"hasher busy":              {username: "ada", fail: func(f *fixture) { f.hasher.err = away }, hashes: 1, outcomes: []accounts.Outcome{accounts.Undecided}},
		"store down after Verify":  {username: "ada", fail: func(f *fixture) { f.store.sessionErr = away }, hashes: 1, outcomes: []accounts.Outcome{accounts.Succeeded}},
		"hasher busy, locked user": {username: "locked", fail: func(f *fixture) { f.hasher.err = away }, hashes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			test.fail(f)
			w := f.do(post(typeJSON, `{"username":"`+test.username+`","password":"lovelace-1843"}`))
			if w.Code != 503 || w.Header().Get("Retry-After") == "" {
				t.Errorf("got status %d and Retry-After %q, want 503 and any value", w.Code, w.Header().Get("Retry-After"))
			}
			if len(f.hasher.verified) != test.hashes || !reflect.DeepEqual(f.store.outcomes, test.outcomes) {
				t.Errorf("got %d verified hashes and outcomes %v, want %d and %v", len(f.hasher.verified), f.store.outcomes, test.hashes, test.outcomes)
			}
		})
	}
}

// TestOutcomeIsRecorded checks that the outcome of an attempt is recorded after the client has disconnected, and that the
// sign-in succeeds if the outcome cannot be recorded.
func TestOutcomeIsRecorded(t *testing.T) {
	f := newFixture(t, 0)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f.do(post(typeJSON, `{"username":"ada","password":"wrong"}`).WithContext(gone))
	if want := []accounts.Outcome{accounts.Failed}; !reflect.DeepEqual(f.store.outcomes, want) {
		t.Errorf("got outcomes %v, want %v", f.store.outcomes, want)
	}
	f.store.settleErr = problem.Unavailable.With("down")
	if w := f.do(post(typeJSON, `{"username":"ada","password":"lovelace-1843"}`)); w.Code != 200 {
		t.Errorf("got %d %s, want 200", w.Code, w.Body)
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
		if w := f.do(r); w.Code != 200 || f.store.address.String() != want {
			t.Errorf("%d hops: got status %d and client address %v, want 200 and %s", hops, w.Code, f.store.address, want)
		}
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler { return newFixture(t, 0) }, http.StatusRequestTimeout,
		"POST /\nContent-Type: "+typeJSON, "POST /login\nContent-Type: "+typeJSON, "POST /login\nContent-Type: "+typeForm, "POST /login",
		"POST /login\nAuthorization: Basic YWRhOmxvdmVsYWNlLTE4NDM=", "POST /refresh\nContent-Type: "+typeJSON, "POST /refresh\nContent-Type: "+typeForm,
		"POST /logout\nContent-Type: "+typeJSON, "POST /logout?scope=all\nContent-Type: "+typeForm)
}
