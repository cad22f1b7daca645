package main

import (
	"cmp"
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
	raw, _, err := signer.Sign(token.Subject{ID: "0190-ada", Username: "ada", Roles: roles, Version: version, Session: "0a",
		AuthTime: time.Unix(1767355200, 0), ACR: token.ACRPassword})
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
		"user":                               {target: "/validate", bearer: user, status: 200, scope: "files:read files:write"},
		"root":                               {target: "/", bearer: user, status: 200, scope: "files:read files:write"},
		"sub-path":                           {target: "/validate/files/x", bearer: user, status: 200, scope: "files:read files:write"},
		"sub-path, not clean":                {target: "/validate/a//b/../c", bearer: user, status: 200, scope: "files:read files:write"},
		"admin":                              {target: "/validate", bearer: admin, status: 200, scope: "files:read files:write files:any accounts:manage"},
		"granted scopes":                     {target: "/validate?scope=files:read&scope=files:write", bearer: user, status: 200, scope: "files:read files:write"},
		"no scopes, without a second factor": {target: "/validate", bearer: sign(t, signer, []string{}...), status: 403},
		"no scopes, sub-path":                {target: "/validate/files/x", bearer: sign(t, signer, []string{}...), status: 403},
		"scope not granted":                  {target: "/validate?scope=files:read&scope=files:any", bearer: user, status: 403},
		"malformed scope":                    {target: "/validate?scope=%22%0d%0a", bearer: user, status: 400},
		"empty scope":                        {target: "/validate?scope=", bearer: user, status: 400},
		"empty scope, no equals sign":        {target: "/validate?scope", bearer: user, status: 400},
		"blank scope":                        {target: "/validate?scope=%20", bearer: user, status: 400},
		"granted scope and empty scope":      {target: "/validate?scope=files:read&scope=", bearer: user, status: 400},
		"two scopes in one parameter":        {target: "/validate?scope=files:read%20accounts:manage", bearer: user, status: 400},
		"two scopes in one parameter, plus":  {target: "/validate?scope=files:read+accounts:manage", bearer: user, status: 400},
		"two scopes in one parameter, comma": {target: "/validate?scope=files:read,accounts:manage", bearer: user, status: 403},
		"percent-encoded name":               {target: "/validate?%73cope=accounts%3Amanage", bearer: user, status: 403},
		"name in another case":               {target: "/validate?Scope=accounts:manage", bearer: user, status: 400},
		"misspelled name":                    {target: "/validate?scopes=accounts:manage", bearer: user, status: 400},
		"name with brackets":                 {target: "/validate?scope[]=accounts:manage", bearer: user, status: 400},
		"name with a space":                  {target: "/validate?%20scope=accounts:manage", bearer: user, status: 400},
		"no name":                            {target: "/validate?accounts:manage", bearer: user, status: 400},
		"scope and another parameter":        {target: "/validate?x=1&scope=files:read", bearer: user, status: 400},
		"empty query":                        {target: "/validate?", bearer: user, status: 200, scope: "files:read files:write"},
		"empty parameters":                   {target: "/validate?&", bearer: user, status: 200, scope: "files:read files:write"},
		"semicolon":                          {target: "/validate?scope=accounts:manage;x", bearer: user, status: 400},
		"semicolon for &":                    {target: "/validate?scope=files:read;scope=accounts:manage", bearer: user, status: 400},
		"incomplete percent-encoding":        {target: "/validate?scope=accounts:manage%", bearer: user, status: 400},
		"second malformed":                   {target: "/validate?scope=files:read&scope=accounts:manage%zz", bearer: user, status: 400},
		"malformed at the root":              {target: "/?scope=accounts:manage;x", bearer: user, status: 400},
		"scope at the root":                  {target: "/?scope=accounts:manage", bearer: user, status: 403},
		"malformed, no token":                {target: "/validate?scope=%zz", status: 400},
		// Below /validate/, the query string is that of the client's request.
		"client's query, scope":                  {target: "/validate/?scope=accounts:manage", bearer: user, status: 200, scope: "files:read files:write"},
		"client's query, longer path":            {target: "/validate/a/b?scope=accounts:manage&scope=", bearer: user, status: 200, scope: "files:read files:write"},
		"client's query, parameters":             {target: "/validate/a?q=1&q=2&Scope=x", bearer: user, status: 200, scope: "files:read files:write"},
		"client's query, semicolon":              {target: "/validate/a?q=1;2", bearer: user, status: 200, scope: "files:read files:write"},
		"client's query, percent sign":           {target: "/validate/?q=100%", bearer: user, status: 200, scope: "files:read files:write"},
		"client's query, no token":               {target: "/validate/a?q=100%", status: 401},
		"client's query, encoded slash":          {target: "/validate%2Fa?q=100%", bearer: user, status: 200, scope: "files:read files:write"},
		"operator's query, encoded letter":       {target: "/%76alidate?scope=accounts:manage", bearer: user, status: 403},
		"operator's query, path not clean":       {target: "//validate?scope=accounts:manage", bearer: user, status: 404},
		"operator's query, path in another case": {target: "/Validate?scope=accounts:manage", bearer: user, status: 404},
		"operator's query, path parameter":       {target: "/validate;x?scope=accounts:manage", bearer: user, status: 404},
		"no token":                               {target: "/validate", status: 401},
		"invalid token":                          {target: "/validate", bearer: user + "x", status: 401},
		"unknown path":                           {target: "/validated", bearer: user, status: 404},
		"token only in the query string":         {target: "/validate?access_token=" + user, status: 401},
		"sub-path, encoded dots and slash":       {target: "/validate/%2e%2e%2fadmin", bearer: user, status: 200, scope: "files:read files:write"},
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
		"valid token":            {method: "POST", bearer: caller, kind: form, body: url.Values{"token": {other}}.Encode(), status: 200, want: `"active":true,"token_type":"Bearer","iss":"https://issuer.test"`},
		"sign-in":                {method: "POST", bearer: caller, kind: form, body: url.Values{"token": {other}}.Encode(), status: 200, want: `"auth_time":1767355200,"acr":"1"}`},
		"no scopes":              {method: "POST", bearer: caller, kind: form, body: url.Values{"token": {sign(t, signer, []string{}...)}}.Encode(), status: 200, want: `{"active":false}` + "\n"},
		"invalid token":          {method: "POST", bearer: caller, kind: form, body: url.Values{"token": {other + "x"}}.Encode(), status: 200, want: `{"active":false}` + "\n"},
		"no access token":        {method: "POST", kind: form, body: url.Values{"token": {other}}.Encode(), status: 401, want: "unauthenticated"},
		"no token in the form":   {method: "POST", bearer: caller, kind: form, status: 400, want: "bad-request"},
		"two tokens in the form": {method: "POST", bearer: caller, kind: form, body: url.Values{"token": {other, caller}}.Encode(), status: 400, want: "bad-request"},
		"JSON":                   {method: "POST", bearer: caller, kind: "application/json", body: `{"token":"x"}`, status: 415, want: "unsupported-media-type"},
		"GET":                    {method: "GET", bearer: caller, status: 405, want: "method-not-allowed"},
		"body too large":         {method: "POST", bearer: caller, kind: form, body: "token=" + strings.Repeat("x", maxForm), status: 413, want: "too-large"},
		"malformed form":         {method: "POST", bearer: caller, kind: form, body: "token=%zz", status: 400, want: "bad-request"},
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

// fakeAccounts is an accountStore with one user. Current accepts the token versions in versions. For all other
// versions, Current returns err, or token.ErrStale if err is nil.
type fakeAccounts struct {
	versions []int
	err      error
}

func (f fakeAccounts) Current(_ context.Context, claims *token.Claims) (accounts.User, error) {
	if claims.Subject != "0190-ada" || !slices.Contains(f.versions, claims.Version) {
		return accounts.User{}, cmp.Or(f.err, token.ErrStale)
	}
	return accounts.User{ID: claims.Subject}, nil
}

func TestOnline(t *testing.T) {
	for name, c := range map[string]struct {
		store      fakeAccounts
		validate   int
		introspect string // a part of the response of introspect for the same token
	}{
		"both current": {store: fakeAccounts{versions: []int{1, 2}}, validate: 200, introspect: `"active":true`},
		"one stale":    {store: fakeAccounts{versions: []int{1}}, validate: 401, introspect: `{"active":false}`},
		"unavailable":  {store: fakeAccounts{err: problem.Unavailable.With("the account store is unavailable")}, validate: 503, introspect: "urn:strongroom:problem:unavailable"},
		// Introspect must not report that a token is inactive if its account cannot be looked up.
		"unavailable for the token in the form": {store: fakeAccounts{versions: []int{1}, err: problem.Unavailable.With("the account store is unavailable")}, validate: 503, introspect: "urn:strongroom:problem:unavailable"},
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
		"offline":       {change: func(*config) {}},
		"online":        {change: func(c *config) { c.DSN = "u:s3cret@tcp(127.0.0.1:1)/strongroom" }}, // setup does not connect to the database
		"malformed DSN": {change: func(c *config) { c.DSN = "u:s3cret" }, want: "MYSQL_DSN_FILE"},
		"no keys":       {change: func(c *config) { c.KeysFile = file + "x" }, want: file + "x"},
		"no issuer":     {change: func(c *config) { c.Issuer = "" }, want: "TOKEN_ISSUER"},
		"no audience":   {change: func(c *config) { c.Audience = "" }, want: "TOKEN_AUDIENCE"},
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
