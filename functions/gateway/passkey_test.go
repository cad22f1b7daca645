package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
)

// playPasskeys adds responses like those of login: the credential {"id":"a"} is valid.
func playPasskeys(f *fixture) {
	f.answers["login /login/passkey/options"] = problem.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		return respond.JSON(w, http.StatusOK, json.RawMessage(`{"publicKey":{"challenge":"x","timeout":300000,"rpId":"files.example","userVerification":"required"}}`))
	}).ServeHTTP
	f.answers["login /login/passkey"] = problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if given, err := io.ReadAll(r.Body); err != nil || string(given) != `{"credential":{"id":"a"}}` {
			return problem.BadPasskey.Because(err, "the credential is wrong").Header("WWW-Authenticate", `Bearer realm="strongroom"`)
		}
		return respond.JSON(w, http.StatusOK, json.RawMessage(tokens))
	}).ServeHTTP
	f.answers["login /login"] = problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if given, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(given), `"recovery_code":"c"`) {
			return problem.NeedsSecondFactor.Because(err, "send a recovery code")
		}
		return respond.JSON(w, http.StatusOK, json.RawMessage(tokens))
	}).ServeHTTP
}

// TestPasskeySession checks the responses to sign-ins with a passkey or a recovery code. A successful sign-in sets the
// session cookie.
func TestPasskeySession(t *testing.T) {
	f := newFixture(t, playPasskeys)
	const valid = `{"credential":{"id":"a"}}`
	for name, test := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		problem            string
	}{
		"options":                 {path: "/session/passkey/options", status: 200},
		"options, invalid query":  {path: "/session/passkey/options?x=%zz", status: 400, problem: "bad-request"},
		"options, other site":     {path: "/session/passkey/options", header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, problem: "cross-site"},
		"options, GET":            {method: "GET", path: "/session/passkey/options", status: 405, problem: "method-not-allowed"},
		"valid passkey":           {path: "/session/passkey", body: valid, status: 200},
		"invalid passkey":         {path: "/session/passkey", body: `{"credential":{"id":"b"}}`, status: 401, problem: "bad-passkey"},
		"no credential":           {path: "/session/passkey", body: `{}`, status: 400, problem: "bad-request"},
		"credential is null":      {path: "/session/passkey", body: `{"credential":null}`, status: 400, problem: "bad-request"},
		"other site":              {path: "/session/passkey", body: valid, header: []string{"Origin", "https://evil.example"}, status: 403, problem: "cross-site"},
		"GET":                     {method: "GET", path: "/session/passkey", status: 405, problem: "method-not-allowed"},
		"form":                    {path: "/session/passkey", body: "credential=x", header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, problem: "unsupported-media-type"},
		"too large":               {path: "/session/passkey", body: `{"credential":{"id":"` + strings.Repeat("a", 16<<10) + `"}}`, status: 413, problem: "too-large"},
		"password only":           {path: "/session", body: `{"username":"ada","password":"p"}`, status: 403, problem: "second-factor-required"},
		"password, recovery code": {path: "/session", body: `{"username":"ada","password":"p","recovery_code":"c"}`, status: 200},
		"other path":              {path: "/session/passkey/x", status: 404, problem: "not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			method, header := "POST", []string{"Content-Type", "application/json"}
			if test.method != "" {
				method = test.method
			}
			if len(test.header) > 0 && test.header[0] == "Content-Type" {
				header = nil
			}
			got := do(t, f.request(t, method, test.path, strings.NewReader(test.body), append(header, test.header...)...))
			if test.problem != "" {
				got.wantProblem(t, test.status, test.problem)
			} else if got.status != test.status {
				t.Errorf("got %d %s, want %d", got.status, got.body, test.status)
			}
			if cookie, want := cookieOf(t, got), test.status == 200 && !strings.HasSuffix(test.path, "options"); (cookie != nil && cookie.Value == "rt-2") != want {
				t.Errorf("got cookie %v, want a cookie: %t", cookie, want)
			}
		})
	}
}

// TestPasskeySessionWithoutLogin checks the responses while the login function is unavailable.
func TestPasskeySessionWithoutLogin(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.targets["login"] = parse(t, "http://127.0.0.1:1") })
	for _, path := range []string{"/session/passkey/options", "/session/passkey"} {
		do(t, f.request(t, "POST", path, strings.NewReader(`{"credential":{}}`), "Content-Type", "application/json")).
			wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	}
}
