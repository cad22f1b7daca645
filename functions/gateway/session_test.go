package main

import (
	"encoding/json"
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
	f.answers["login /login"] = answer(is(`{"username":"ada","password":"lovelace-1843"}`), wrong, tokens)
	f.answers["login /refresh"] = answer(is(`{"refresh_token":"rt-1"}`), problem.SessionEnded.With("sign in again"), tokens)
	f.answers["login /logout"] = answer(func(body string) bool { return strings.HasPrefix(body, `{"refresh_token":"`) }, problem.BadRequest, "")
}

// cookieOf returns the only cookie that a response sets, or nil if it sets none.
func cookieOf(t *testing.T, a answer) *http.Cookie {
	t.Helper()
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) == 0 {
		return nil
	}
	if len(cookies) > 1 || cookies[0].Name != "strongroom_session" || cookies[0].Path != "/session" || !cookies[0].HttpOnly ||
		cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Domain != "" {
		t.Errorf("got Set-Cookie %q, want one session cookie", a.header.Values("Set-Cookie"))
	}
	return cookies[0]
}

func TestSignIn(t *testing.T) {
	f := newFixture(t, playLogin)
	const (
		right = `{"username":"ada","password":"lovelace-1843"}`
		trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	)
	for _, secure := range []bool{false, true} {
		header := []string{"Content-Type", "application/json", "Sec-Fetch-Site", "same-origin", "X-Request-Id", "mine", "traceparent", trace}
		if secure {
			header = append(header, "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https")
		}
		got := do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(right), header...))
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
		if seen.Header.Get("X-Request-Id") != "mine" || seen.Header.Get("Traceparent") != trace || seen.Header.Get("Cookie") != "" {
			t.Errorf("login got headers %v, want the request ID, the trace and no cookie", seen.Header)
		}
		address := netip.MustParseAddr("127.0.0.1")
		if secure {
			address = netip.MustParseAddr("203.0.113.9")
		}
		if got := (client.Trust{Key: []byte(testKey)}).Address(seen); got != address {
			t.Errorf("login got client address %s, want %s", got, address)
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
				f.ask(t, method, path, append(header, "Cookie", "strongroom_session=rt-1")...).wantProblem(t, http.StatusForbidden, "cross-site")
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
	got := refresh("strongroom_session=rt-1")
	if cookie := cookieOf(t, got); got.status != http.StatusOK || cookie == nil || cookie.Value != "rt-2" || strings.Contains(got.body, "rt-2") || !strings.Contains(got.body, `"access_token":"at"`) {
		t.Errorf("got %d %s and cookie %v, want 200 with a new access token and cookie rt-2", got.status, got.body, cookie)
	}
	f.last(t)

	got = refresh("strongroom_session=rt-0") // used before, or never issued
	got.wantProblem(t, http.StatusUnauthorized, "session-ended")
	if cookie := cookieOf(t, got); cookie == nil || cookie.Value != "" || cookie.MaxAge >= 0 {
		t.Errorf("ended session: got cookie %v, want its deletion", cookie)
	}
	f.last(t)

	for name, cookie := range map[string]string{
		"none": "", "another": "session=rt-1", "two": "strongroom_session=rt-1; strongroom_session=rt-0", "empty": "strongroom_session=",
		"long": "strongroom_session=" + strings.Repeat("a", 4<<10),
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
	got = refresh("strongroom_session=rt-1")
	got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	if cookie := cookieOf(t, got); cookie != nil {
		t.Errorf("outage: got cookie %v, want none", cookie)
	}
}

func TestSignOut(t *testing.T) {
	f := newFixture(t, playLogin)
	got := f.ask(t, http.MethodDelete, "/session", "Cookie", "strongroom_session=rt-1")
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

// While login is unavailable, the session still exists, and the browser keeps the cookie. So the user can try again
// to end the session.
func TestSignOutWhileLoginIsAway(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.targets["login"] = parse(t, "http://127.0.0.1:1") })
	for _, r := range []*http.Request{
		f.request(t, http.MethodDelete, "/session", nil, "Cookie", "strongroom_session=rt-1"),
		f.request(t, http.MethodPost, "/session/refresh", nil, "Cookie", "strongroom_session=rt-1"),
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
			f.ask(t, http.MethodPost, "/session/refresh", "Cookie", "strongroom_session=rt-1").wantProblem(t, http.StatusServiceUnavailable, "unavailable")
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
	}, http.StatusRequestTimeout, "POST /session\nContent-Type: application/json")
}
