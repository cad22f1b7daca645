package main

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// TestListSessions checks the list of a user's sessions.
func TestListSessions(t *testing.T) {
	f := newFixture(t)
	in := accounts.SignIn{Method: accounts.MethodPasskey, Address: netip.MustParseAddr("2001:db8::1"), Device: "Firefox on Linux"}
	f.store.sessions = []accounts.Session{
		{ID: "0a", SignIn: in, StartedAt: noon, LastUsedAt: noon.Add(time.Minute), ExpiresAt: noon.Add(time.Hour)},
		{ID: "0b", SignIn: accounts.SignIn{Method: accounts.MethodPassword}, StartedAt: noon, LastUsedAt: noon, ExpiresAt: noon},
	}
	const want = `{"sessions":[` +
		`{"id":"0a","current":true,"method":"passkey","device":"Firefox on Linux","address":"2001:db8::1","created_at":"2026-03-01T12:00:00Z","last_used_at":"2026-03-01T12:01:00Z","expires_at":"2026-03-01T13:00:00Z"},` +
		`{"id":"0b","current":false,"method":"pwd","created_at":"2026-03-01T12:00:00Z","last_used_at":"2026-03-01T12:00:00Z","expires_at":"2026-03-01T12:00:00Z"}]}`
	w := f.do(forUsers()["sessions"])
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want || f.store.asked != adaID {
		t.Errorf("got %d %s for the user %s, want 200 %s for ada", w.Code, got, f.store.asked, want)
	}
	f.store.sessions = nil
	if w := f.do(forUsers()["sessions"]); !strings.Contains(w.Body.String(), `"sessions":[]`) {
		t.Errorf("no sessions: got %s, want an empty list", w.Body)
	}
	f.store.err = problem.NotFound.With("no such session")
	wantProblem(t, f.do(forUsers()["end session"]), 404, "not-found")
}

// TestRecentSignIn checks that an access token alone can neither change accounts and passkeys, because a change
// outlives the token, nor end sessions (ASVS 3.3.4). All requests that change something require a sign-in in the last
// 10 minutes, except a change of the user's own password, which requires the current password.
func TestRecentSignIn(t *testing.T) {
	requests := map[string]call{
		"admin":    {method: "POST", target: "/accounts", body: `{"username":"mallory","password":"mallory-1234","role":"admin"}`},
		"password": patch(adaID, `{"password":"mallory-1234"}`),
		"enabled":  patch(goneID, `{"disabled":false}`),

		"add passkey": {method: "POST", target: "/accounts/me/passkeys", body: `{"credential":{},"name":"x"}`},
	}
	maps.Copy(requests, forUsers())
	maps.Copy(requests, forAdmins())
	missing := contract.Operations(t, "accounts")
	for _, c := range requests {
		operation := c.method + " " + strings.NewReplacer(adaID, "{id}", goneID, "{id}", passkeyID, "{id}", "0b", "{id}").Replace(c.target)
		missing = slices.DeleteFunc(missing, func(described string) bool { return described == operation })
	}
	if len(missing) > 0 {
		t.Errorf("there are no requests for the operations %q", missing)
	}
	delete(requests, "change password")
	for _, who := range []string{"late", "earlier"} {
		for name, c := range requests {
			t.Run(who+"/"+name, func(t *testing.T) {
				f := newFixture(t)
				c.who = who
				w := f.do(c)
				if c.method == "GET" {
					if w.Code/100 != 2 {
						t.Errorf("got %d %s, want success", w.Code, w.Body)
					}
					return
				}
				wantProblem(t, w, 401, "sign-in-too-old")
				want := `Bearer realm="strongroom", error="insufficient_user_authentication", ` +
					`error_description="sign in again: this request requires a sign-in in the last 10 minutes", max_age="600"`
				if got := w.Header().Get("WWW-Authenticate"); got != want {
					t.Errorf("got WWW-Authenticate %q, want %q", got, want)
				}
				if f.store.calls != nil {
					t.Errorf("got the store calls %q, want none", f.store.calls)
				}
				if strings.HasPrefix(c.target, "/sessions") || strings.HasPrefix(c.target, "/accounts/me/") {
					return
				}
				c.who = "ada" // a user without the scope must not be asked to sign in again
				wantProblem(t, f.do(c), 403, "insufficient-scope")
			})
		}
	}
}
