package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses of validate against docs/openapi.yaml.
var api = contract.Of("validate")

func TestMain(m *testing.M) { os.Exit(api.Run(m)) }

// newFixture returns the handler, checked against its contract, and a signer of tokens that the handler accepts. The
// handler looks up the account of each token in accounts, unless accounts is nil.
func newFixture(t *testing.T, accounts accountStore) (http.Handler, *token.Signer) {
	t.Helper()
	signer, verifier, _ := tokentest.New(t)
	return api.Handler(t, function.Wrap(newHandler(verifier, accounts), time.Minute)), signer
}

func sign(t testing.TB, signer *token.Signer, roles ...string) string {
	t.Helper()
	return signVersion(t, signer, 1, roles...)
}

func signVersion(t testing.TB, signer *token.Signer, version int, roles ...string) string {
	t.Helper()
	raw, _, err := signer.Sign(token.Subject{ID: "0190-ada", Username: "ada", Roles: roles, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestValidate(t *testing.T) {
	h, signer := newFixture(t, nil)
	user, admin := sign(t, signer, token.RoleUser), sign(t, signer, token.RoleUser, token.RoleAdmin)
	for name, c := range map[string]struct {
		target, bearer string
		status         int
		scope          string // the X-Auth-Scope header of the response
	}{
		"user":                               {"/validate", user, 200, "files:read files:write"},
		"root":                               {"/", user, 200, "files:read files:write"},
		"sub-path":                           {"/validate/files/x", user, 200, "files:read files:write"},
		"sub-path, not clean":                {"/validate/a//b/../c", user, 200, "files:read files:write"},
		"admin":                              {"/validate", admin, 200, "files:read files:write files:any accounts:manage"},
		"granted scopes":                     {"/validate?scope=files:read&scope=files:write", user, 200, "files:read files:write"},
		"scope not granted":                  {"/validate?scope=files:read&scope=files:any", user, 403, ""},
		"malformed scope":                    {"/validate?scope=%22%0d%0a", user, 400, ""},
		"empty scope":                        {"/validate?scope=", user, 400, ""},
		"empty scope, no equals sign":        {"/validate?scope", user, 400, ""},
		"blank scope":                        {"/validate?scope=%20", user, 400, ""},
		"granted scope and empty scope":      {"/validate?scope=files:read&scope=", user, 400, ""},
		"two scopes in one parameter":        {"/validate?scope=files:read%20accounts:manage", user, 400, ""},
		"two scopes in one parameter, plus":  {"/validate?scope=files:read+accounts:manage", user, 400, ""},
		"two scopes in one parameter, comma": {"/validate?scope=files:read,accounts:manage", user, 403, ""},
		"percent-encoded name":               {"/validate?%73cope=accounts%3Amanage", user, 403, ""},
		"name in another case":               {"/validate?Scope=accounts:manage", user, 400, ""},
		"misspelled name":                    {"/validate?scopes=accounts:manage", user, 400, ""},
		"name with brackets":                 {"/validate?scope[]=accounts:manage", user, 400, ""},
		"name with a space":                  {"/validate?%20scope=accounts:manage", user, 400, ""},
		"no name":                            {"/validate?accounts:manage", user, 400, ""},
		"scope and another parameter":        {"/validate?x=1&scope=files:read", user, 400, ""},
		"empty query":                        {"/validate?", user, 200, "files:read files:write"},
		"empty parameters":                   {"/validate?&", user, 200, "files:read files:write"},
		"semicolon":                          {"/validate?scope=accounts:manage;x", user, 400, ""},
		"semicolon for &":                    {"/validate?scope=files:read;scope=accounts:manage", user, 400, ""},
		"incomplete percent-encoding":        {"/validate?scope=accounts:manage%", user, 400, ""},
		"second malformed":                   {"/validate?scope=files:read&scope=accounts:manage%zz", user, 400, ""},
		"malformed at the root":              {"/?scope=accounts:manage;x", user, 400, ""},
		"scope at the root":                  {"/?scope=accounts:manage", user, 403, ""},
		"malformed, no token":                {"/validate?scope=%zz", "", 400, ""},
		// Below /validate/, the query string is that of the client's request.
		"client's query, scope":                  {"/validate/?scope=accounts:manage", user, 200, "files:read files:write"},
		"client's query, longer path":            {"/validate/a/b?scope=accounts:manage&scope=", user, 200, "files:read files:write"},
		"client's query, parameters":             {"/validate/a?q=1&q=2&Scope=x", user, 200, "files:read files:write"},
		"client's query, semicolon":              {"/validate/a?q=1;2", user, 200, "files:read files:write"},
		"client's query, percent sign":           {"/validate/?q=100%", user, 200, "files:read files:write"},
		"client's query, no token":               {"/validate/a?q=100%", "", 401, ""},
		"client's query, encoded slash":          {"/validate%2Fa?q=100%", user, 200, "files:read files:write"},
		"operator's query, encoded letter":       {"/%76alidate?scope=accounts:manage", user, 403, ""},
		"operator's query, path not clean":       {"//validate?scope=accounts:manage", user, 404, ""},
		"operator's query, path in another case": {"/Validate?scope=accounts:manage", user, 404, ""},
		"operator's query, path parameter":       {"/validate;x?scope=accounts:manage", user, 404, ""},
		"no token":                               {"/validate", "", 401, ""},
		"invalid token":                          {"/validate", user + "x", 401, ""},
		"unknown path":                           {"/validated", user, 404, ""},
		"token only in the query string":         {"/validate?access_token=" + user, "", 401, ""},
		"sub-path, encoded dots and slash":       {"/validate/%2e%2e%2fadmin", user, 200, "files:read files:write"},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			t.Run(name+" "+method, func(t *testing.T) {
				request := httptest.NewRequest(method, c.target, nil)
				if c.bearer != "" {
					request.Header.Set("Authorization", "Bearer "+c.bearer)
				}
				request.Header.Set("X-Auth-Roles", "admin")
				request.Header.Set("X-Auth-User-Id", "0")
				for _, name := range []string{"X-Forwarded-Uri", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url"} {
					request.Header.Set(name, "/validate/?q=%")
				}
				answer := httptest.NewRecorder()
				h.ServeHTTP(answer, request)
				if answer.Code != c.status {
					t.Fatalf("got status %d, want %d: %s", answer.Code, c.status, answer.Body)
				}
				if got := answer.Header().Get("X-Auth-Scope"); got != c.scope {
					t.Errorf("got X-Auth-Scope %q, want %q", got, c.scope)
				}
				if got := answer.Header().Get("Cache-Control"); got != "no-store" {
					t.Errorf("got Cache-Control %q, want no-store", got)
				}
				if c.status != 200 {
					if got := answer.Header().Get("X-Auth-Roles"); got != "" {
						t.Errorf("got X-Auth-Roles %q with status %d", got, c.status)
					}
					return
				}
				if got, want := answer.Header().Get("X-Auth-User-Id"), "0190-ada"; got != want {
					t.Errorf("got X-Auth-User-Id %q, want %q", got, want)
				}
				if got, want := answer.Header().Get("X-Auth-Username"), "ada"; got != want {
					t.Errorf("got X-Auth-Username %q, want %q", got, want)
				}
				var claims struct {
					Subject string `json:"sub"`
					Scope   string `json:"scope"`
				}
				if err := json.Unmarshal(answer.Body.Bytes(), &claims); err != nil || claims.Subject != "0190-ada" || claims.Scope != c.scope {
					t.Errorf("got claims %s (%v)", answer.Body, err)
				}
			})
		}
	}
}

func TestIntrospect(t *testing.T) {
	h, signer := newFixture(t, nil)
	caller, other := sign(t, signer, token.RoleUser), sign(t, signer, token.RoleAdmin)
	const form = "application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		method, bearer, kind, body string
		status                     int
		want                       string // a part of the response body
	}{
		"valid token":            {"POST", caller, form, url.Values{"token": {other}}.Encode(), 200, `"active":true,"token_type":"Bearer","iss":"https://issuer.test"`},
		"invalid token":          {"POST", caller, form, url.Values{"token": {other + "x"}}.Encode(), 200, `{"active":false}` + "\n"},
		"no access token":        {"POST", "", form, url.Values{"token": {other}}.Encode(), 401, "unauthenticated"},
		"no token in the form":   {"POST", caller, form, "", 400, "bad-request"},
		"two tokens in the form": {"POST", caller, form, url.Values{"token": {other, caller}}.Encode(), 400, "bad-request"},
		"JSON":                   {"POST", caller, "application/json", `{"token":"x"}`, 415, "unsupported-media-type"},
		"GET":                    {"GET", caller, "", "", 405, "method-not-allowed"},
		"body too large":         {"POST", caller, form, "token=" + strings.Repeat("x", maxForm), 413, "too-large"},
		"malformed form":         {"POST", caller, form, "token=%zz", 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest(c.method, "/introspect", strings.NewReader(c.body))
			request.Header.Set("Content-Type", c.kind)
			if c.bearer != "" {
				request.Header.Set("Authorization", "Bearer "+c.bearer)
			}
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, request)
			if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.want) {
				t.Errorf("got %d %s, want %d with %s", answer.Code, answer.Body, c.status, c.want)
			}
		})
	}
}

func TestJWKS(t *testing.T) {
	h, _ := newFixture(t, nil)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("GET", "/.well-known/jwks.json", nil))
	if answer.Code != 200 || answer.Header().Get("Cache-Control") != keysMaxAge {
		t.Errorf("got status %d and Cache-Control %q, want 200 and %q", answer.Code, answer.Header().Get("Cache-Control"), keysMaxAge)
	}
	if _, err := token.ParseKeys(answer.Body.Bytes()); err != nil {
		t.Errorf("parse the published keys: %v", err)
	}
	answer = httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("GET", "/.well-known/jwks.json?x=%zz", nil))
	if answer.Code != 400 {
		t.Errorf("query string that cannot be parsed: got status %d, want 400", answer.Code)
	}
	answer = httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("POST", "/.well-known/jwks.json", nil))
	if answer.Code != 405 || answer.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: got status %d and Allow %q, want 405 and GET, HEAD", answer.Code, answer.Header().Get("Allow"))
	}
}

// fakeAccounts is an accountStore with one user. Current accepts the token versions in versions.
type fakeAccounts struct {
	versions []int
	err      error
}

func (f fakeAccounts) Current(_ context.Context, id string, version int) (accounts.User, error) {
	if f.err == nil && (id != "0190-ada" || !slices.Contains(f.versions, version)) {
		return accounts.User{}, token.ErrStale
	}
	return accounts.User{ID: id}, f.err
}

func TestOnline(t *testing.T) {
	for name, c := range map[string]struct {
		store      fakeAccounts
		validate   int
		introspect string // a part of the response of introspect for the same token
	}{
		"both current": {fakeAccounts{versions: []int{1, 2}}, 200, `"active":true`},
		"one stale":    {fakeAccounts{versions: []int{1}}, 401, `{"active":false}`},
		"unavailable":  {fakeAccounts{err: problem.Unavailable.With("the account store is unavailable")}, 503, "urn:strongroom:problem:unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			h, signer := newFixture(t, c.store)
			caller, other := signVersion(t, signer, 1, token.RoleUser), signVersion(t, signer, 2, token.RoleUser)
			request := httptest.NewRequest("GET", "/validate", nil)
			request.Header.Set("Authorization", "Bearer "+other)
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, request)
			if answer.Code != c.validate {
				t.Errorf("validate: got %d %s, want %d", answer.Code, answer.Body, c.validate)
			}
			if challenge := answer.Header().Get("WWW-Authenticate"); strings.Contains(challenge, "invalid_token") != (c.validate == 401) {
				t.Errorf("validate: got the challenge %q with status %d", challenge, answer.Code)
			}
			request = httptest.NewRequest("POST", "/introspect", strings.NewReader(url.Values{"token": {other}}.Encode()))
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Authorization", "Bearer "+caller)
			answer = httptest.NewRecorder()
			h.ServeHTTP(answer, request)
			if !strings.Contains(answer.Body.String(), c.introspect) {
				t.Errorf("introspect: got %d %s, want %s", answer.Code, answer.Body, c.introspect)
			}
		})
	}
}

func TestSetup(t *testing.T) {
	_, jwks, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	good := config{Settings: token.Settings{KeysFile: file, Issuer: "issuer", Audience: "audience"}}
	for name, c := range map[string]struct {
		change func(*config)
		want   string // a part of the error, empty if setup must succeed
	}{
		"offline":       {func(*config) {}, ""},
		"online":        {func(c *config) { c.DSN = "u:s3cret@tcp(127.0.0.1:1)/strongroom" }, ""}, // setup does not connect to the database
		"malformed DSN": {func(c *config) { c.DSN = "u:s3cret" }, "MYSQL_DSN"},
		"no keys":       {func(c *config) { c.KeysFile = file + "x" }, file + "x"},
		"no issuer":     {func(c *config) { c.Issuer = "" }, "TOKEN_ISSUER"},
		"no audience":   {func(c *config) { c.Audience = "" }, "TOKEN_AUDIENCE"},
	} {
		cfg := good
		c.change(&cfg)
		h, err := setup(t.Context(), cfg)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%s: got %v, want an error with %s and without the password", name, err, c.want)
		}
		if closer, ok := h.(io.Closer); ok {
			if err := closer.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		h, signer := newFixture(t, nil)
		bearer := "Bearer " + sign(t, signer, token.RoleUser)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", bearer)
			h.ServeHTTP(w, r)
		})
	}, http.StatusRequestTimeout, "POST /introspect\nContent-Type: application/x-www-form-urlencoded")
}
