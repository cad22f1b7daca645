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

// TestClientCannotForgeAddress proves that a client cannot forge its address with X-Forwarded-For, neither for the
// counters of failed logins nor in the audit trail. Behind Kourier, this test passes only with use-remote-address.
func TestClientCannotForgeAddress(t *testing.T) {
	direct := open(t)
	for name, s := range map[string]*system{"directly": direct, "through the gateway": direct.throughGateway()} {
		t.Run(name, s.cannotForgeAddress)
	}
}

// cannotForgeAddress checks that the client cannot forge its address.
func (s *system) cannotForgeAddress(t *testing.T) {
	username := fmt.Sprintf("address-%d", time.Now().UnixNano())
	id := s.newUser(t, username, "analytical-engine") // sends no X-Forwarded-For
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
		t.Fatalf("change the password: got %s, want 204", changed)
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
		// The list begins with the newest entry. The oldest change of the password is that of newUser.
		if _, newer := addresses[entry.Action]; entry.Account.ID == id && !newer {
			addresses[entry.Action] = entry.Address
		}
	}
	without, with := addresses["user.created"], addresses["password.changed"]
	// A loopback address is the address of queue-proxy. The function uses it if X-Forwarded-For has fewer
	// entries than TRUSTED_HOPS.
	if !without.IsValid() || without.IsLoopback() || with != without {
		t.Errorf("audit trail: got the address %v without X-Forwarded-For and %v with it, want the same address", without, with)
	}
	if want, known := ownAddress(t, s.urls["gateway"]); known && with != want {
		t.Errorf("audit trail: got the address %v, want %v", with, want)
	}

	// The delay after the fifth failure is 1 s and doubles with each failure. A slow request can arrive after
	// the delay has passed.
	for guess := 1; ; guess++ {
		got := forged("", http.MethodPost, "login", "/login", map[string]string{"username": username, "password": fmt.Sprintf("wrong-guess-%d", guess)})
		if guess > 5 && got.status == http.StatusTooManyRequests && got.problem() == "too-many-attempts" {
			break
		}
		if got.status != http.StatusUnauthorized {
			t.Fatalf("guess %d: got %s, want 401", guess, got)
		}
		if guess == 20 {
			t.Fatalf("got 401 for %d wrong guesses, each with another X-Forwarded-For, want 429 after the fifth", guess)
		}
	}
}

// ownAddress returns the local address of this machine for connections to a URL. The address is known only if this
// machine is the node of the ingress. On other machines, a network in between can replace the address with the address
// of a node.
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
