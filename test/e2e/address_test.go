//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"
)

// TestClientWritesNoAddress checks that a client cannot choose the address that its attempts are counted under and that the
// audit trail shows. Each request has an X-Forwarded-For that the client wrote. Behind Kourier, this test passes
// only with use-remote-address.
func TestClientWritesNoAddress(t *testing.T) {
	direct := open(t)
	for name, s := range map[string]*system{"directly": direct, "through the gateway": direct.throughGateway()} {
		t.Run(name, func(t *testing.T) {
			username := fmt.Sprintf("address-%d", time.Now().UnixNano())
			id := s.newUser(t, username, "analytical-engine") // without the header
			written := 0
			forged := func(token, method, function, path string, body map[string]string) answer {
				t.Helper()
				content, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				written++
				header := map[string]string{"Content-Type": "application/json", "X-Forwarded-For": fmt.Sprintf("203.0.113.%d", written)}
				return s.call(t, method, function, path, token, header, content)
			}

			var session struct {
				AccessToken string `json:"access_token"`
			}
			forged("", http.MethodPost, "login", "/login", map[string]string{"username": username, "password": "analytical-engine"}).
				decode(t, http.StatusOK, &session)
			changed := forged(session.AccessToken, http.MethodPut, "accounts", "/accounts/me/password",
				map[string]string{"current_password": "analytical-engine", "new_password": "difference-engine"})
			if changed.status != http.StatusNoContent {
				t.Fatalf("change the password: %s", changed)
			}

			var trail struct {
				Entries []struct {
					Action  string
					Account struct{ ID string }
					Address netip.Addr
				}
			}
			s.call(t, http.MethodGet, "accounts", "/accounts/audit?limit=20", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &trail)
			addresses := map[string]netip.Addr{}
			for _, entry := range trail.Entries {
				if entry.Account.ID == id {
					addresses[entry.Action] = entry.Address
				}
			}
			without, with := addresses["user.created"], addresses["password.changed"]
			// An address of loopback is that of queue-proxy: X-Forwarded-For has fewer entries than TRUSTED_HOPS.
			if !without.IsValid() || without.IsLoopback() || with != without {
				t.Errorf("the audit trail shows the address %v without X-Forwarded-For and %v with it", without, with)
			}
			if want, known := ownAddress(t, s.urls["gateway"]); known && with != want {
				t.Errorf("the audit trail shows the address %v, want %v", with, want)
			}

			// A slow attempt can outlast the wait after the fifth failure, which is 1 s. The wait doubles with each failure.
			for guess := 1; ; guess++ {
				got := forged("", http.MethodPost, "login", "/login", map[string]string{"username": username, "password": fmt.Sprintf("wrong-guess-%d", guess)})
				if guess > 5 && got.status == http.StatusTooManyRequests && got.problem() == "too-many-attempts" {
					break
				}
				if got.status != http.StatusUnauthorized {
					t.Fatalf("guess %d: %s", guess, got)
				}
				if guess == 20 {
					t.Fatalf("%d wrong guesses, each with another X-Forwarded-For, are all compared", guess)
				}
			}
		})
	}
}

// ownAddress returns the address of this machine that connections to a URL come from. It is known only on the node of the
// ingress. Elsewhere, a network on the way can replace the address with that of a node.
func ownAddress(t *testing.T, base string) (address netip.Addr, known bool) {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	port := u.Port()
	if port == "" {
		port = u.Scheme
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	return local, local == remote && !local.IsLoopback()
}
