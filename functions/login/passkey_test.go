package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/passkey"
	"github.com/strongroom-dev/strongroom/shared/passkey/passkeytest"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// testKey is the key of the gateway in the tests.
const testKey = "the key of the gateway, 32 bytes"

// register adds a passkey for ada to the store, and returns its authenticator.
func (f *fixture) register(t *testing.T) *passkeytest.Authenticator {
	t.Helper()
	ceremonies := passkey.New(client.Trust{Key: []byte(testKey)}, time.Now)
	a := passkeytest.New(t, "https://files.example")
	r := httptest.NewRequest("POST", "https://files.example/", nil)
	ada := f.store.users["ada"]
	options, err := ceremonies.BeginRegistration(r, ada, nil)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	f.store.passkey, _, err = ceremonies.Register(r, ada, a.Create(t, encoded))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// postTo returns a request for the host files.example with a JSON body.
func postTo(path, body string) *http.Request {
	r := httptest.NewRequest("POST", "https://files.example"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", typeJSON)
	return r
}

// TestLoginWithPasskey checks the responses to sign-ins with a passkey.
func TestLoginWithPasskey(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(f *fixture, a *passkeytest.Authenticator)
		request func(valid *http.Request) // changes the second request
		body    string                    // the body of the second request, instead of a valid one
		status  int
		want    string // a part of the response body
	}{
		"valid": {status: 200, want: `"refresh_token":"refresh-ada"`},
		"reset password": {change: func(f *fixture, _ *passkeytest.Authenticator) {
			ada := f.store.users["ada"]
			ada.MustChangePassword = true
			f.store.users["ada"] = ada
		}, status: 200, want: `"refresh_token":"refresh-ada"`},
		"user not verified": {change: func(_ *fixture, a *passkeytest.Authenticator) { a.Unverified = true }, status: 401, want: "bad-passkey"},
		"disabled user": {change: func(f *fixture, _ *passkeytest.Authenticator) {
			ada := f.store.users["ada"]
			ada.Disabled = true
			f.store.users["ada"] = ada
		}, status: 401, want: "bad-passkey"},
		"removed passkey": {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.passkey = accounts.Passkey{} }, status: 401, want: "bad-passkey"},
		"store down": {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.passkeyErr = problem.Unavailable.With("down") },
			status: 503, want: "unavailable"},
		"store error":      {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.passkeyErr = errors.New("test error") }, status: 500, want: "internal"},
		"no session":       {change: func(f *fixture, _ *passkeytest.Authenticator) { f.store.sessionErr = problem.Unavailable.With("down") }, status: 503, want: "unavailable"},
		"no credential":    {body: `{}`, status: 400, want: "bad-request"},
		"empty credential": {body: `{"credential":{}}`, status: 401, want: "bad-passkey"},
		"null credential":  {body: `{"credential":null}`, status: 400, want: "bad-request"},
		"more members":     {body: `{"credential":{},"username":"ada"}`, status: 400, want: "bad-request"},
		"too large":        {body: `{"credential":"` + strings.Repeat("x", passkey.MaxBody) + `"}`, status: 413, want: "too-large"},
		"form":             {request: func(r *http.Request) { r.Header.Set("Content-Type", typeForm) }, status: 415, want: "unsupported-media-type"},
		"GET":              {request: func(r *http.Request) { r.Method = "GET" }, status: 405, want: "method-not-allowed"},
		"invalid query":    {request: func(r *http.Request) { r.URL.RawQuery = "x=%zz" }, status: 400, want: "bad-request"},
		"header without the gateway": {request: func(r *http.Request) {
			r.Host = "evil.example"
			r.Header.Set("X-Forwarded-Host", "files.example")
		}, status: 401, want: "bad-passkey"},
		"wrong host": {request: func(r *http.Request) { r.Host = "evil.example" }, status: 401, want: "bad-passkey"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			a := f.register(t)
			if test.change != nil {
				test.change(f, a)
			}
			w := f.do(postTo("/login/passkey/options", ""))
			if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("options: got %d %s with headers %v", w.Code, w.Body, w.Header())
			}
			body := test.body
			if body == "" {
				body = `{"credential":` + string(a.Get(t, w.Body.Bytes())) + `}`
			}
			send := func() *httptest.ResponseRecorder {
				r := postTo("/login/passkey", body)
				if test.request != nil {
					test.request(r)
				}
				return f.do(r)
			}
			if w = send(); w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Fatalf("got %d %s, want %d and a body that contains %s", w.Code, w.Body, test.status, test.want)
			}
			if test.status != 200 {
				return
			}
			if f.store.signIn.Method != accounts.MethodPasskey {
				t.Errorf("got the method %q, want %q", f.store.signIn.Method, accounts.MethodPasskey)
			}
			if w := send(); w.Code != 401 {
				t.Errorf("the same response again: got %d %s, want 401", w.Code, w.Body)
			}
		})
	}
}

// TestPasskeyOptions checks the responses to requests for options that cannot succeed.
func TestPasskeyOptions(t *testing.T) {
	for name, test := range map[string]struct {
		change func(r *http.Request)
		key    string
		status int
	}{
		"GET":           {change: func(r *http.Request) { r.Method = "GET" }, key: testKey, status: 405},
		"IP address":    {change: func(r *http.Request) { r.Host = "192.0.2.1" }, key: testKey, status: 400},
		"without a key": {change: func(*http.Request) {}, status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureWithKey(t, 0, test.key)
			r := postTo("/login/passkey/options", "")
			test.change(r)
			if w := f.do(r); w.Code != test.status {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, test.status)
			}
		})
	}
}

// TestSecondFactor checks sign-ins with a correct password, depending on whether the user's role requires a second
// factor, on the user's passkeys, and on the recovery code.
func TestSecondFactor(t *testing.T) {
	for name, test := range map[string]struct {
		required, hasPasskey bool
		code                 string
		status               int
		want                 string // a part of the response body
		method               string
	}{
		"optional":                 {status: 200, want: `"scope":"files:read files:write"`, method: accounts.MethodPassword},
		"optional, with a passkey": {hasPasskey: true, status: 200, want: `"scope":"files:read files:write"`, method: accounts.MethodPassword},
		"optional, code":           {hasPasskey: true, code: "right", status: 200, want: `"scope":"files:read files:write"`, method: accounts.MethodRecoveryCode},
		"optional, wrong code":     {hasPasskey: true, code: "wrong", status: 403, want: "second-factor-required"},
		"required, no passkey":     {required: true, status: 200, want: `"scope":"","user":{"id":"` + adaID + `","username":"ada","roles":[]}`, method: accounts.MethodPassword},
		"required":                 {required: true, hasPasskey: true, status: 403, want: "second-factor-required"},
		"required, code":           {required: true, hasPasskey: true, code: "right", status: 200, want: `"scope":"files:read files:write"`, method: accounts.MethodRecoveryCode},
		"required, wrong code":     {required: true, hasPasskey: true, code: "wrong", status: 403, want: "second-factor-required"},
	} {
		for kind, body := range map[string]string{
			typeJSON: `{"username":"ada","password":"lovelace-1843","recovery_code":"` + test.code + `"}`,
			typeForm: "username=ada&password=lovelace-1843&recovery_code=" + test.code,
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				f := newFixture(t, 0)
				ada := f.store.users["ada"]
				ada.SecondFactor, ada.HasPasskey = test.required, test.hasPasskey
				f.store.users["ada"] = ada
				w := f.do(post(kind, body))
				if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
					t.Errorf("got %d %s, want %d and a body that contains %s", w.Code, w.Body, test.status, test.want)
				}
				if f.store.signIn.Method != test.method {
					t.Errorf("got a session with the method %q, want %q", f.store.signIn.Method, test.method)
				}
			})
		}
	}
}

// TestRefreshWithoutSecondFactor checks that a session that began without a second factor has no scopes after the
// second factor is required.
func TestRefreshWithoutSecondFactor(t *testing.T) {
	f := newFixture(t, 0)
	ada := f.store.users["ada"]
	ada.SecondFactor, ada.HasPasskey = true, true
	f.store.users["ada"] = ada
	w := sessionTest{body: "refresh_token=refresh-ada"}.send(f, "/refresh")
	if want := `"scope":"","user":{"id":"` + adaID + `","username":"ada","roles":[]}`; w.Code != 200 || !strings.Contains(w.Body.String(), want) {
		t.Errorf("got %d %s, want 200 and a body that contains %s", w.Code, w.Body, want)
	}
}

// PasskeyOwner implements passkey.Store for the only passkey, which belongs to ada.
func (s *fakeStore) PasskeyOwner(_ context.Context, credentialID []byte) (accounts.Passkey, accounts.User, error) {
	if !slices.Equal(credentialID, s.passkey.CredentialID) {
		return accounts.Passkey{}, accounts.User{}, problem.NotFound.With("no such passkey")
	}
	return s.passkey, s.users["ada"], s.passkeyErr
}

// UsePasskey implements passkey.Store. It remembers the challenges.
func (s *fakeStore) UsePasskey(_ context.Context, p accounts.Passkey, c accounts.Challenge) error {
	if slices.Contains(s.challenges, c) {
		return accounts.ErrChallengeUsed
	}
	s.passkey, s.challenges = p, append(s.challenges, c)
	return nil
}
