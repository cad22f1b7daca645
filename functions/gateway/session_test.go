package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/function/functiontest"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
)

const tokens = `{"access_token":"at","token_type":"Bearer","expires_in":900,"refresh_token":"rt-2","scope":"files:read","user":{"id":"0195a3f0-0000-7000-8000-000000000001","username":"ada","roles":["user"]}}`

// playLogin adds responses like those of login: ada's password lovelace-1843 and the refresh token rt-1 are valid.
func playLogin(f *fixture) {
	answer := func(right func(body string) bool, wrong error, body string) http.HandlerFunc {
		return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			given, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			if !right(string(given)) || r.Header.Get("Content-Type") != "application/json" || r.Method != http.MethodPost {
				return wrong
			}
			if body == "" {
				w.WriteHeader(http.StatusNoContent)
				return nil
			}
			return respond.JSON(w, http.StatusOK, json.RawMessage(body))
		}).ServeHTTP
	}
	is := func(want string) func(string) bool { return func(body string) bool { return body == want } }
	wrong := problem.BadCredentials.With("check the user name and the password, and try again").Header("WWW-Authenticate", `Basic realm="strongroom"`)
	f.answers["login /login"] = answer(func(body string) bool {
		return body == `{"username":"ada","password":"lovelace-1843"}` || body == `{"username":"ada","password":"old","new_password":"lovelace-1843"}`
	}, wrong, tokens)
	f.answers["login /refresh"] = answer(is(`{"refresh_token":"rt-1"}`), problem.SessionEnded.With("sign in again"), tokens)
	f.answers["login /logout"] = answer(func(body string) bool { return strings.HasPrefix(body, `{"refresh_token":"`) }, problem.BadRequest, "")
}

// cookies returns the value of a Cookie header with session cookies that have the given values.
func (f *fixture) cookies(t *testing.T, values ...string) string {
	t.Helper()
	for i, value := range values {
		values[i] = "strongroom_session_" + parse(t, f.url).Port() + "=" + value
	}
	return strings.Join(values, "; ")
}

// cookieOf returns the only cookie that a response sets, or nil if it sets none.
func cookieOf(t *testing.T, a answer) *http.Cookie {
	t.Helper()
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) == 0 {
		return nil
	}
	if len(cookies) > 1 || !strings.Contains(cookies[0].Name, "strongroom_session") || cookies[0].Path != "/" || !cookies[0].HttpOnly ||
		cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Domain != "" || strings.HasPrefix(cookies[0].Name, "__Host-") != cookies[0].Secure {
		t.Errorf("got Set-Cookie %q, want one session cookie", a.header.Values("Set-Cookie"))
	}
	return cookies[0]
}

func TestSignIn(t *testing.T) {
	f := newFixture(t, playLogin)
	const (
		right = `{"username":"ada","password":"lovelace-1843"}`
		renew = `{"username":"ada","password":"old","new_password":"lovelace-1843"}`
	)
	for secure, body := range map[bool]string{false: right, true: renew} {
		header := []string{"Content-Type", "application/json", "Sec-Fetch-Site", "same-origin", "X-Request-Id", "mine", "traceparent", clientTrace}
		if secure {
			header = append(header, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https")
		}
		got := do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(body), header...))
		var members map[string]any
		if err := json.Unmarshal([]byte(got.body), &members); got.status != http.StatusOK || err != nil {
			t.Fatalf("got %d %s, want 200 with a JSON object", got.status, got.body)
		}
		if names, want := slices.Sorted(maps.Keys(members)), []string{"access_token", "expires_in", "scope", "token_type", "user"}; !slices.Equal(names, want) {
			t.Errorf("got members %v, want %v", names, want)
		}
		if got.header.Get("Cache-Control") != "no-store" || strings.Contains(got.body, "rt-2") {
			t.Errorf("got Cache-Control %q and body %s, want no-store and no refresh token", got.header.Get("Cache-Control"), got.body)
		}
		got.wantFinished(t)
		if cookie := cookieOf(t, got); cookie == nil || cookie.Value != "rt-2" || cookie.Secure != secure || cookie.MaxAge != 0 || !cookie.Expires.IsZero() {
			t.Errorf("HTTPS %t: got cookie %v, want rt-2 until the browser is closed", secure, cookie)
		}
		seen := f.last(t)
		origin := f.originOf(seen)
		if origin.ID != got.header.Get("X-Request-Id") || origin.ClientID != "mine" || origin.Public || seen.Header.Get("Cookie") != "" {
			t.Errorf("login got headers %v, want both request IDs and no cookie", seen.Header)
		}
		if trace := seen.Header.Get("Traceparent"); trace[3:35] == clientTrace[3:35] {
			t.Errorf("login got traceparent %s, want a new trace", trace)
		}
		address := netip.MustParseAddr("127.0.0.1")
		if secure {
			address = netip.MustParseAddr("203.0.113.9")
		}
		if origin.Address != address {
			t.Errorf("login got client address %s, want %s", origin.Address, address)
		}
	}
}

func TestSignInRefused(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		playLogin(f)
		f.answers["login /away"] = nil
	})
	post := func(body string, header ...string) answer {
		return do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(body), append([]string{"Content-Type", "application/json"}, header...)...))
	}
	got := post(`{"username":"ada","password":"wrong"}`)
	got.wantProblem(t, http.StatusUnauthorized, "bad-credentials")
	if challenge := got.header.Get("WWW-Authenticate"); strings.Contains(challenge, "Basic") || challenge == "" || cookieOf(t, got) != nil {
		t.Errorf("got challenge %q and cookie %v, want another challenge than Basic and no cookie", challenge, cookieOf(t, got))
	}
	for _, refusal := range []*problem.Kind{problem.PasswordChange, problem.Unprocessable} {
		f.mu.Lock()
		f.answers["login /login"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			return refusal.With("the password")
		}).ServeHTTP
		f.mu.Unlock()
		got := post(`{"username":"ada","password":"lovelace-1843"}`)
		got.wantProblem(t, problem.Status(refusal.With("")), refusal.Error())
		if cookieOf(t, got) != nil {
			t.Errorf("%v: got a session cookie, want none", refusal)
		}
	}
	f.mu.Lock()
	f.answers["login /login"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return problem.TooManyAttempts.With("wait").Header("Retry-After", "7")
	}).ServeHTTP
	f.mu.Unlock()
	if got := post(`{"username":"ada","password":"wrong"}`); got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") != "7" {
		t.Errorf("too many attempts: got status %d and headers %v, want 429 with Retry-After 7", got.status, got.header)
	}
	f.last(t)
	for name, test := range map[string]struct {
		body, kind string
		status     int
		problem    string
	}{
		"not JSON":     {`username=ada`, "application/x-www-form-urlencoded", http.StatusUnsupportedMediaType, "unsupported-media-type"},
		"no password":  {`{"username":"ada"}`, "application/json", http.StatusBadRequest, "bad-request"},
		"null":         {`{"username":"ada","password":"p","new_password":null}`, "application/json", http.StatusBadRequest, "bad-request"},
		"more members": {`{"username":"ada","password":"p","admin":true}`, "application/json", http.StatusBadRequest, "bad-request"},
		"too large":    {`{"username":"` + strings.Repeat("a", 4<<10) + `","password":"p"}`, "application/json", http.StatusRequestEntityTooLarge, "too-large"},
	} {
		t.Run(name, func(t *testing.T) {
			do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(test.body), "Content-Type", test.kind)).wantProblem(t, test.status, test.problem)
		})
	}
	for name, header := range map[string][]string{
		"from another site":     {"Sec-Fetch-Site", "cross-site"},
		"from a sibling site":   {"Sec-Fetch-Site", "same-site"},
		"from an older browser": {"Origin", "https://evil.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			post(`{"username":"ada","password":"lovelace-1843"}`, header...).wantProblem(t, http.StatusForbidden, "cross-site")
			for method, path := range map[string]string{http.MethodDelete: "/session", http.MethodPost: "/session/refresh"} {
				f.ask(t, method, path, append(header, "Cookie", f.cookies(t, "rt-1"))...).wantProblem(t, http.StatusForbidden, "cross-site")
			}
		})
	}
	for _, test := range [][3]string{{http.MethodGet, "/session", "POST, DELETE"}, {http.MethodPut, "/session", "POST, DELETE"}, {http.MethodGet, "/session/refresh", "POST"}} {
		got := f.ask(t, test[0], test[1])
		got.wantProblem(t, http.StatusMethodNotAllowed, "method-not-allowed")
		if allow := got.header.Get("Allow"); allow != test[2] {
			t.Errorf("%s %s: got Allow %q, want %q", test[0], test[1], allow, test[2])
		}
	}
	if f.calls() != 0 {
		t.Errorf("got %d calls of login, want none", f.calls())
	}
}

func TestRefresh(t *testing.T) {
	f := newFixture(t, playLogin)
	refresh := func(cookie string) answer {
		var header []string
		if cookie != "" {
			header = []string{"Cookie", cookie}
		}
		return f.ask(t, http.MethodPost, "/session/refresh", header...)
	}
	got := refresh(f.cookies(t, "rt-1"))
	if cookie := cookieOf(t, got); got.status != http.StatusOK || cookie == nil || cookie.Value != "rt-2" || strings.Contains(got.body, "rt-2") || !strings.Contains(got.body, `"access_token":"at"`) {
		t.Errorf("got %d %s and cookie %v, want 200 with a new access token and cookie rt-2", got.status, got.body, cookie)
	}
	f.last(t)

	got = refresh(f.cookies(t, "rt-0")) // used before, or never issued
	got.wantProblem(t, http.StatusUnauthorized, "session-ended")
	if cookie := cookieOf(t, got); cookie == nil || cookie.Value != "" || cookie.MaxAge >= 0 {
		t.Errorf("ended session: got cookie %v, want its deletion", cookie)
	}
	f.last(t)

	for name, cookie := range map[string]string{
		"none": "", "another": "session=rt-1", "another instance": "strongroom_session_1=rt-1", "an earlier version": "strongroom_session=rt-1",
		"empty": f.cookies(t, ""), "long": f.cookies(t, strings.Repeat("a", 4<<10)), "over HTTPS": "__Host-" + f.cookies(t, "rt-1"),
	} {
		if got := refresh(cookie); got.status != http.StatusNoContent || got.body != "" || cookieOf(t, got) != nil || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %d %s with headers %v, want 204 with no-store and no cookie", name, got.status, got.body, got.header)
		}
	}
	if f.calls() != 0 {
		t.Error("got a call of login without a session, want none")
	}

	f.mu.Lock()
	f.answers["login /refresh"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return problem.Unavailable.With("MySQL is unavailable")
	}).ServeHTTP
	f.mu.Unlock()
	got = refresh(f.cookies(t, "rt-1"))
	got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	if cookie := cookieOf(t, got); cookie != nil {
		t.Errorf("outage: got cookie %v, want none", cookie)
	}
	f.mu.Lock()
	f.answers["login /refresh"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return problem.TooManyRefreshes.With("wait").Header("Retry-After", "10")
	}).ServeHTTP
	f.mu.Unlock()
	got = refresh(f.cookies(t, "rt-1"))
	got.wantProblem(t, http.StatusTooManyRequests, "too-many-refreshes")
	if cookie := cookieOf(t, got); cookie != nil || got.header.Get("Retry-After") != "10" {
		t.Errorf("too many refreshes: got cookie %v and headers %v, want no cookie and Retry-After 10", cookie, got.header)
	}
}

// TestDeviceCookie checks that the gateway keeps the device token of login in a cookie for 30 days, and sends the token
// to login.
func TestDeviceCookie(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["login /login"] = func(w http.ResponseWriter, _ *http.Request) {
			_ = respond.JSON(w, http.StatusOK, json.RawMessage(strings.TrimSuffix(tokens, "}")+`,"device_token":"dt-2"}`))
		}
	})
	const body = `{"username":"ada","password":"lovelace-1843"}`
	for name, test := range map[string]struct{ cookie, want string }{
		"none":  {"", ""},
		"one":   {"NAME=dt-1", "dt-1"},
		"two":   {"NAME=dt-1; NAME=dt-0", ""},
		"empty": {"NAME=", ""},
		"long":  {"NAME=" + strings.Repeat("a", 4<<10), ""},
	} {
		for _, secure := range []bool{false, true} {
			header := []string{"Content-Type", "application/json", "X-Device-Token", "forged"}
			cookieName := "strongroom_device_" + parse(t, f.url).Port()
			if secure {
				cookieName = "__Host-" + cookieName
				header = append(header, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https")
			}
			if test.cookie != "" {
				header = append(header, "Cookie", strings.ReplaceAll(test.cookie, "NAME", cookieName))
			}
			got := do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(body), header...))
			var cookie *http.Cookie
			for _, c := range (&http.Response{Header: got.header}).Cookies() {
				if c.Name == cookieName {
					cookie = c
				}
			}
			if got.status != http.StatusOK || strings.Contains(got.body, "dt-2") || strings.Contains(got.body, "device_token") {
				t.Errorf("%s: got %d %s, want 200 without the device token", name, got.status, got.body)
			}
			if cookie == nil || cookie.Value != "dt-2" || cookie.MaxAge != 30*24*3600 || !cookie.HttpOnly || cookie.Secure != secure ||
				cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" {
				t.Errorf("%s, HTTPS %t: got cookie %v, want dt-2 for 30 days", name, secure, cookie)
			}
			if token := f.last(t).Header.Get("X-Device-Token"); token != test.want {
				t.Errorf("%s: login got device token %q, want %q", name, token, test.want)
			}
		}
	}
}

// TestDeviceOfPasswords checks that a function that verifies a password gets the device token from the cookie, and that
// other requests do not have the token.
func TestDeviceOfPasswords(t *testing.T) {
	f := newFixture(t, nil)
	for _, test := range []struct{ method, path, cookie, want string }{
		{http.MethodPut, "/accounts/me/password", "dt-1", "dt-1"},
		{http.MethodPost, "/login", "dt-1", "dt-1"},
		{http.MethodPut, "/accounts/me/password", "", "own"}, // a client without cookies
		{http.MethodPost, "/login", "", "own"},
		{http.MethodGet, "/accounts/me", "dt-1", "own"},
		{http.MethodDelete, "/accounts/me/passkeys/1", "dt-1", "own"},
		{http.MethodPost, "/accounts/me/recovery-codes", "dt-1", "own"},
		{http.MethodPost, "/login/passkey", "dt-1", "own"},
		{http.MethodPost, "/refresh", "dt-1", "own"},
	} {
		header := []string{"X-Device-Token", "own"}
		if test.cookie != "" {
			header = append(header, "Cookie", "strongroom_device_"+parse(t, f.url).Port()+"="+test.cookie)
		}
		f.ask(t, test.method, test.path, header...)
		if got := f.last(t).Header.Get("X-Device-Token"); got != test.want {
			t.Errorf("%s %s with the device cookie %q: got device token %q, want %q", test.method, test.path, test.cookie, got, test.want)
		}
	}
}

func TestSignOut(t *testing.T) {
	f := newFixture(t, playLogin)
	got := f.ask(t, http.MethodDelete, "/session", "Cookie", f.cookies(t, "rt-1"))
	if cookie := cookieOf(t, got); got.status != http.StatusNoContent || cookie == nil || cookie.Value != "" || cookie.MaxAge >= 0 {
		t.Errorf("got %d %s and cookie %v, want 204 and the deletion of the cookie", got.status, got.body, cookie)
	}
	if seen := f.last(t); seen.URL.Path != "/logout" {
		t.Errorf("login got path %s, want /logout", seen.URL.Path)
	}
	if got := f.ask(t, http.MethodDelete, "/session"); got.status != http.StatusNoContent || f.calls() != 0 {
		t.Errorf("without a session: got status %d and %d calls of login, want 204 and none", got.status, f.calls())
	}
}

// TestSeveralCookies checks requests with several session cookies, which another site on the same domain can cause. A
// refresh tries all of them. A sign-out and a sign-in end all of their sessions.
func TestSeveralCookies(t *testing.T) {
	var many []string
	for i := range 9 {
		many = append(many, fmt.Sprint("rt-", i+2))
	}
	for name, test := range map[string]struct {
		method, path string
		cookies      []string
		status       int
		calls        []string // the requests to login
		cookie       string   // the new value of the cookie; "-" stands for its deletion
	}{
		"refresh, the first is valid":  {"POST", "/session/refresh", []string{"rt-1", "x"}, 200, []string{"/refresh rt-1"}, "rt-2"},
		"refresh, the last is valid":   {"POST", "/session/refresh", []string{"x", "y", "rt-1"}, 200, []string{"/refresh x", "/refresh y", "/refresh rt-1"}, "rt-2"},
		"refresh, none is valid":       {"POST", "/session/refresh", []string{"x", "y"}, 401, []string{"/refresh x", "/refresh y"}, "-"},
		"refresh, the same twice":      {"POST", "/session/refresh", []string{"x", "x"}, 401, []string{"/refresh x"}, "-"},
		"refresh, too many":            {"POST", "/session/refresh", many, 400, nil, ""},
		"sign-out":                     {"DELETE", "/session", []string{"x", "rt-1"}, 204, []string{"/logout x", "/logout rt-1"}, "-"},
		"sign-out, too many":           {"DELETE", "/session", many, 400, nil, ""},
		"sign-out, login fails at one": {"DELETE", "/session", []string{"rt-1", "fails", "rt-3"}, 503, []string{"/logout rt-1", "/logout fails"}, ""},
		"sign-in":                      {"POST", "/session", nil, 200, []string{"/login ada"}, "rt-2"},
		"sign-in with a session":       {"POST", "/session", []string{"rt-1"}, 200, []string{"/login ada", "/logout rt-1"}, "rt-2"},
		"sign-in with two sessions":    {"POST", "/session", []string{"x", "rt-1"}, 200, []string{"/login ada", "/logout x", "/logout rt-1"}, "rt-2"},
		"sign-in, login fails at one":  {"POST", "/session", []string{"fails"}, 200, []string{"/login ada", "/logout fails"}, "rt-2"},
		"sign-in, too many":            {"POST", "/session", many, 400, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var calls []string
			f := newFixture(t, func(f *fixture) {
				playLogin(f)
				for path, play := range f.answers {
					f.answers[path] = func(w http.ResponseWriter, r *http.Request) {
						content, err := io.ReadAll(r.Body)
						if err != nil {
							t.Error(err)
						}
						var body struct {
							Username string
							Token    string `json:"refresh_token"`
						}
						if err := json.Unmarshal(content, &body); err != nil {
							t.Error(err)
						}
						calls = append(calls, r.URL.Path+" "+body.Username+body.Token)
						r.Body = io.NopCloser(bytes.NewReader(content))
						if body.Token == "fails" {
							problem.Write(w, r, problem.Unavailable.With("MySQL is unavailable"))
							return
						}
						play(w, r)
					}
				}
			})
			request := f.request(t, test.method, test.path, nil)
			if test.path == "/session" && test.method == "POST" {
				request = f.request(t, test.method, test.path, strings.NewReader(`{"username":"ada","password":"lovelace-1843"}`), "Content-Type", "application/json")
			}
			request.Header.Set("Cookie", f.cookies(t, slices.Clone(test.cookies)...))
			got := do(t, request)
			cookie, value := cookieOf(t, got), ""
			if cookie != nil {
				value = cmp.Or(cookie.Value, "-")
			}
			if got.status != test.status || value != test.cookie || !slices.Equal(calls, test.calls) {
				t.Errorf("got %d %s, the cookie %q and the requests %q, want %d, %q and %q", got.status, got.body, value, calls, test.status, test.cookie, test.calls)
			}
		})
	}
}

// TestCookieName checks that cookies have the prefix __Host- over HTTPS, and that two instances on one host have
// different cookies.
func TestCookieName(t *testing.T) {
	for _, test := range []struct{ scheme, host, want string }{
		{"http", "localhost:8080", "strongroom_session_8080"},
		{"http", "localhost:9000", "strongroom_session_9000"},
		{"http", "[::1]:8080", "strongroom_session_8080"},
		{"http", "files.example.com", "strongroom_session"},
		{"http", "files.example.com:x=1", "strongroom_session"},
		{"http", "files.example.com:99999", "strongroom_session"},
		{"https", "files.example.com", "__Host-strongroom_session"},
		{"https", "files.example.com:8443", "__Host-strongroom_session_8443"},
	} {
		if got := cookieName(visitor{scheme: test.scheme, host: test.host}, "session"); got != test.want {
			t.Errorf("%s://%s: got %s, want %s", test.scheme, test.host, got, test.want)
		}
	}
}

// TestStrictTransportSecurity checks that Strict-Transport-Security includes the subdomains of the gateway's host, but
// not all sites of a registrable domain.
func TestStrictTransportSecurity(t *testing.T) {
	for host, want := range map[string]string{
		"gateway.strongroom.example.com": "max-age=31536000; includeSubDomains",
		"files.example.com:8443":         "max-age=31536000; includeSubDomains",
		"files.example.co.uk":            "max-age=31536000; includeSubDomains",
		"example.com":                    "max-age=31536000",
		"Example.com:443":                "max-age=31536000",
		"example.co.uk":                  "max-age=31536000",
		"gateway":                        "max-age=31536000",
	} {
		f := newFixture(t, nil)
		for _, path := range []string{"/", "/files"} {
			r := f.request(t, http.MethodGet, path, nil, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https")
			r.Host = host
			got := do(t, r)
			if hsts := got.header.Get("Strict-Transport-Security"); hsts != want {
				t.Errorf("%s%s: got Strict-Transport-Security %q, want %q", host, path, hsts, want)
			}
		}
	}
}

// TestNoCookiesBehindTheGateway checks that no function receives cookies, although browsers send the cookies of the
// gateway with every request.
func TestNoCookiesBehindTheGateway(t *testing.T) {
	f := newFixture(t, nil)
	cookie := f.cookies(t, "s3cret") + "; __Host-strongroom_session=s3cret; other=s3cret"
	for _, to := range newRoutes(f.targets) {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions} {
			f.ask(t, method, to.path, "Cookie", cookie)
			if seen := f.last(t); strings.Contains(fmt.Sprint(seen.Header), "s3cret") {
				t.Errorf("%s %s: %s got the headers %v, want no cookie", method, to.path, to.function, seen.Header)
			}
		}
	}
}

// While login is unavailable, the session still exists, and the browser keeps the cookie. So the user can try again
// to end the session.
func TestSignOutWhileLoginIsAway(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.targets["login"] = parse(t, "http://127.0.0.1:1") })
	for _, r := range []*http.Request{
		f.request(t, http.MethodDelete, "/session", nil, "Cookie", f.cookies(t, "rt-1")),
		f.request(t, http.MethodPost, "/session/refresh", nil, "Cookie", f.cookies(t, "rt-1")),
		f.request(t, http.MethodPost, "/session", strings.NewReader(`{"username":"ada","password":"p"}`), "Content-Type", "application/json"),
	} {
		got := do(t, r)
		got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
		if cookie := cookieOf(t, got); cookie != nil {
			t.Errorf("%s: got cookie %v, want none", r.Method, cookie)
		}
	}
}

// The gateway does not forward responses from a proxy in front of login, or incomplete responses.
func TestSessionAnswersThatAreNotLogins(t *testing.T) {
	f := newFixture(t, nil)
	for name, answer := range map[string]http.HandlerFunc{
		"an ingress": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example", http.StatusFound)
		},
		"a cut response": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a large response": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = io.WriteString(w, strings.Repeat(" ", 1<<10))
			}
		},
	} {
		f.mu.Lock()
		f.answers["login /refresh"] = answer
		f.mu.Unlock()
		t.Run(name, func(t *testing.T) {
			f.ask(t, http.MethodPost, "/session/refresh", "Cookie", f.cookies(t, "rt-1")).wantProblem(t, http.StatusServiceUnavailable, "unavailable")
		})
	}
}

func TestSlowBodies(t *testing.T) {
	functiontest.SlowBodies(t, func(t *testing.T) http.Handler {
		targets := map[string]*url.URL{}
		for _, name := range []string{"login", "validate", "upload", "files", "accounts"} {
			targets[name] = parse(t, "http://127.0.0.1:1") // the gateway forwards no request
		}
		return api.Handler(t, function.Wrap(newHandler(newRoutes(targets), client.Trust{Key: []byte(testKey)}, nil, http.NotFoundHandler()), time.Hour))
	}, http.StatusRequestTimeout, "POST /session\nContent-Type: application/json",
		"POST /session/passkey\nContent-Type: application/json")
}
