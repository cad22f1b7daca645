//go:build audit

package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
)

// TestAuditForwardedHost checks security S15: the functions get the host that the client requested, and not the client's X-Forwarded-Host.
func TestAuditForwardedHost(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.trust.Hops = 3 })
	address := f.url
	for range 3 {
		address = startProxy(t, address)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/files", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "files.example.com"
	r.Header.Set("X-Forwarded-Host", "evil.example")
	do(t, r)
	if got := f.last(t).Header.Get("X-Forwarded-Host"); got != r.Host {
		t.Errorf("got X-Forwarded-Host %s, want %s", got, r.Host)
	}
}

// startProxy returns the URL of a proxy to target. Like Envoy, and like Knative's activator and queue-proxy, the proxy adds
// its peer to X-Forwarded-For and leaves Host and X-Forwarded-Host unchanged.
func startProxy(t *testing.T, target string) string {
	t.Helper()
	to := parse(t, target)
	server := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.Out.Host = p.In.Host
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host"} {
			p.Out.Header[name] = p.In.Header[name] // ReverseProxy removes these headers before it calls Rewrite.
		}
		peer, _, _ := net.SplitHostPort(p.In.RemoteAddr)
		p.Out.Header.Add("X-Forwarded-For", peer)
	}})
	t.Cleanup(server.Close)
	return server.URL
}

// TestAuditTwoCookies checks security S11: the gateway responds with 204 to a sign-out with two session cookies only after it asked login to end the session.
func TestAuditTwoCookies(t *testing.T) {
	f := newFixture(t, playLogin)
	got := f.ask(t, http.MethodDelete, "/session", "Cookie", "strongroom_session=x; strongroom_session=rt-1")
	if got.status == http.StatusNoContent && f.calls() == 0 {
		t.Errorf("got status %d and no call of login, so the session of rt-1 continues", got.status)
	}
}

// TestAuditCookiePrefix checks security S11: over HTTPS the name of the session cookie has the prefix __Host- or __Secure-.
func TestAuditCookiePrefix(t *testing.T) {
	cookie := signInOverHTTPS(t).header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "__Host-") && !strings.HasPrefix(cookie, "__Secure-") {
		t.Errorf("got Set-Cookie %s, want a name with a prefix", cookie)
	}
}

// TestAuditHSTSOfSubdomains checks security S11: Strict-Transport-Security includes subdomains.
func TestAuditHSTSOfSubdomains(t *testing.T) {
	if got := signInOverHTTPS(t).header.Get("Strict-Transport-Security"); !strings.Contains(got, "includeSubDomains") {
		t.Errorf("got Strict-Transport-Security %q, want includeSubDomains in it", got)
	}
}

// signInOverHTTPS signs ada in through a proxy that ends TLS.
func signInOverHTTPS(t *testing.T) answer {
	t.Helper()
	f := newFixture(t, playLogin)
	got := do(t, f.request(t, http.MethodPost, "/session", strings.NewReader(`{"username":"ada","password":"lovelace-1843"}`),
		"Content-Type", "application/json", "X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https"))
	if got.status != http.StatusOK {
		t.Fatalf("sign in: got status %d, want 200", got.status)
	}
	return got
}

// TestAuditCrossSiteSignIn checks security S14: a page of another site cannot make its visitors' browsers send requests to login.
func TestAuditCrossSiteSignIn(t *testing.T) {
	for _, path := range []string{"/login", "/refresh", "/logout"} {
		f := newFixture(t, nil)
		got := do(t, f.request(t, http.MethodPost, path, strings.NewReader("username=admin&password=guess"),
			"Content-Type", "application/x-www-form-urlencoded", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"))
		if f.calls() != 0 {
			t.Errorf("%s: got status %d and %d calls of login, want none", path, got.status, f.calls())
		}
	}
}

// TestAuditTraceOfClient checks security S16: a client's traceparent does not choose the trace of its requests.
func TestAuditTraceOfClient(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	f := newFixture(t, nil)
	f.ask(t, http.MethodGet, "/files", "traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	if got := f.last(t).Header.Get("Traceparent"); strings.Contains(got, trace) {
		t.Errorf("got traceparent %s, want another trace", got)
	}
}

// TestAuditRequestIDOfClient checks security S8: a client's X-Request-Id does not become the id of its request in the logs and the audit trail.
func TestAuditRequestIDOfClient(t *testing.T) {
	const id = "chosen-by-the-client"
	f := newFixture(t, nil)
	f.ask(t, http.MethodGet, "/files", "X-Request-Id", id)
	if got := f.last(t).Header.Get("X-Request-Id"); got == id {
		t.Errorf("got X-Request-Id %s, want another id", got)
	}
}
