package integration

import (
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// hop is how a proxy changes the X-Forwarded-For header.
type hop int

const (
	appends  hop = iota // adds the address of its client
	replaces            // removes the entries of its client, and adds the address of its client
	forwards            // forwards the header unchanged
)

// proxyOf starts a proxy in front of the server at target and returns the proxy's URL. The address from is the entry that
// the proxy adds.
func proxyOf(t *testing.T, target string, kind hop, from string) string {
	t.Helper()
	server := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(parsed(t, target))
		entries := r.In.Header.Values("X-Forwarded-For")
		if kind == replaces {
			entries = nil
		}
		if kind != forwards {
			entries = []string{strings.TrimPrefix(strings.Join(entries, ", ")+", "+from, ", ")}
		}
		if len(entries) > 0 { // Rewrite gets the outgoing request without the header
			r.Out.Header["X-Forwarded-For"] = entries
		}
	}})
	t.Cleanup(server.Close)
	return server.URL
}

// TestHops runs deploy/hops against the real login and accounts functions behind chains of proxies, and checks what the
// script says about each value of TRUSTED_HOPS.
func TestHops(t *testing.T) {
	const (
		client  = "198.51.100.7"
		correct = "The number is correct: the function found the address of this machine, " + client
		low     = "Raise TRUSTED_HOPS by 1"
		none    = "The ingress adds no entry."
		shared  = "Lower TRUSTED_HOPS by 1"
	)
	to := func(hops int) string { return fmt.Sprintf("Set TRUSTED_HOPS to %d.", hops) }
	chains := map[string]struct {
		proxies []hop    // the first proxy is the one that the client connects to
		want    []string // for TRUSTED_HOPS 1, 2 and so on
	}{
		"one proxy":    {[]hop{appends}, []string{correct, none, none, none, none}},
		"two proxies":  {[]hop{appends, appends}, []string{low, correct, none, none, none}},
		"three":        {[]hop{appends, appends, appends}, []string{low, low, correct, to(3), to(3)}},
		"four proxies": {[]hop{appends, appends, appends, appends}, []string{low, low, low, correct, to(4)}},
		// The ingress as published by Kourier.
		"the ingress forwards the header": {[]hop{forwards, appends, appends}, []string{low, low, none, none, none}},
		// A load balancer in front of such an ingress is the only proxy that adds the address of the client.
		"a load balancer before it": {[]hop{appends, forwards, appends, appends}, []string{low, low, correct, to(3), to(3)}},
		// Traefik without trusted addresses.
		"the ingress replaces the header": {[]hop{replaces, appends, appends}, []string{low, low, correct, shared, shared}},
		// No number is correct, because the ingress removes the address of the client.
		"a load balancer before that": {[]hop{appends, replaces, appends, appends}, []string{low, low, low, shared, shared}},
	}

	dsn := servertest.AccountsDSN(t)
	createAdmin(t, dsn, "grace", `hopper"1906\`)
	settings, _ := loginSettings(t, dsn)
	for _, setting := range settings {
		if file, ok := strings.CutPrefix(setting, "TOKEN_SIGNING_KEY_FILE="); ok {
			settings = append(settings, "TOKEN_KEYS_FILE="+filepath.Join(filepath.Dir(file), "jwks.json"))
		}
	}
	login := runFunction(t, "login", settings...)
	for i := range 5 {
		hops := fmt.Sprintf("TRUSTED_HOPS=%d", i+1)
		accounts := runFunction(t, "accounts", append(settings, hops)...)
		// One address leads to both functions, as the address of the gateway does.
		both := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			if r.In.URL.Path == "/login" {
				r.SetURL(parsed(t, login))
				return
			}
			r.SetURL(parsed(t, accounts))
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
		}})
		t.Cleanup(both.Close)
		for name, chain := range chains {
			t.Run(hops+"/"+name, func(t *testing.T) {
				address := both.URL
				for position := len(chain.proxies) - 1; position >= 0; position-- {
					from := client
					if position > 0 {
						from = fmt.Sprintf("10.0.0.%d", position)
					}
					address = proxyOf(t, address, chain.proxies[position], from)
				}
				script := exec.CommandContext(t.Context(), "../../deploy/hops", address+"/")
				script.Env = append(os.Environ(), "ADMIN=grace", "CLIENT="+client, hops)
				script.Stdin = strings.NewReader(`hopper"1906\`)
				out, err := script.CombinedOutput()
				want := chain.want[i]
				if (err == nil) != (want == correct) || !strings.Contains(string(out), want) {
					t.Errorf("got %v and the output\n%s\nwant %q", err, out, want)
				}
			})
		}
	}

	// The script has deleted its accounts.
	users, _, err := servertest.OpenAccounts(t, dsn).List(t.Context(), 100, "")
	if err != nil || len(users) != 1 {
		t.Errorf("got the accounts %v and the error %v, want one account", users, err)
	}
}

// parsed returns a URL that the test itself has built.
func parsed(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Error(err)
	}
	return u
}
