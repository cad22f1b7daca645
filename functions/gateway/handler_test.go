package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/request"
)

func TestRoutes(t *testing.T) {
	f := newFixture(t, nil)
	for _, test := range []struct{ path, want string }{ // want is the name of the function, or empty if no function gets the request
		{"/login", "login"},
		{"/refresh", "login"},
		{"/logout?scope=all", "login"},
		{"/validate", "validate"},
		{"/validate/any/path%2Fat/all/..?scope=files:read", "validate"},
		{"/introspect", "validate"},
		{"/.well-known/jwks.json", "validate"},
		{"/upload?name=x;y=%zz", "upload"},
		{"/upload/tus", "upload"},
		{"/upload/tus/0195a3f0-0000-7000-8000-000000000000", "upload"},
		{"/files?limit=1", "files"},
		{"/files/1/content", "files"},
		{"/files/1%2F2", "files"},
		{"/accounts/me/password", "accounts"},
		{"/login/passkey", "login"},
		{"/login/passkey/options", "login"},
		{"/login/", ""},
		{"/login/x", ""},
		{"/Login", ""},
		{"//login", ""},
		{"/loginx", ""},
		{"/.well-known/", ""},
		{"/.well-known/openid-configuration", ""},
		{"/upload/", ""},
		{"/upload/other", ""},
		{"/record", ""},
		{"/sweep", ""},
		{"/metrics", ""},
		{"/session/x", ""},
		{"/x/../login", ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, "PROPFIND"} {
			got := f.ask(t, method, test.path)
			got.wantFinished(t)
			if test.want == "" {
				if f.calls() != 0 {
					t.Errorf("%s %s: got a call of a function, want none", method, test.path)
				}
				got.wantProblem(t, http.StatusNotFound, "not-found")
				continue
			}
			if got.status != http.StatusOK || got.body != test.want {
				t.Errorf("%s %s: got %d %q, want the response of %s", method, test.path, got.status, got.body, test.want)
			}
			if seen := f.last(t); seen.URL.RequestURI() != test.path || seen.Method != method || seen.Host != f.targets[test.want].Host {
				t.Errorf("%s got %s %s with Host %s, want %s %s with its own address", test.want, seen.Method, seen.URL.RequestURI(), seen.Host, method, test.path)
			}
		}
	}
	if got := f.ask(t, http.MethodGet, "/healthz"); got.status != http.StatusOK || f.calls() != 0 {
		t.Errorf("/healthz: got status %d and %d calls of functions, want 200 and none", got.status, f.calls())
	}
}

// The gateway forwards a query string that cannot be parsed without a change. Most functions refuse it, but validate
// must accept it in the request that a proxy forwards for authentication. If no function gets the request, the
// gateway refuses it.
func TestQueriesThatCannotBeParsed(t *testing.T) {
	f := newFixture(t, nil)
	for _, query := range []string{"x=%zz", "x=100%", "x=1;y=2", "x=1&;"} {
		for path, want := range map[string]string{
			"/login": "login", "/validate": "validate", "/validate/": "validate", "/validate/x": "validate", "/introspect": "validate",
			"/.well-known/jwks.json": "validate", "/upload": "upload", "/upload/tus/x": "upload", "/files": "files", "/files/x/content": "files",
			"/accounts": "accounts", "/accounts/me": "accounts", "/session": "", "/session/refresh": "", "/": "", "/assets/x.js": "", "/x": "",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				got := f.ask(t, method, path+"?"+query)
				got.wantFinished(t)
				if want == "" {
					got.wantProblem(t, http.StatusBadRequest, "bad-request")
				} else if seen := f.last(t); got.body != want || seen.URL.RawQuery != query {
					t.Errorf("%s %s?%s: got %d %q and query string %q, want the response of %s and the same query string", method, path, query, got.status, got.body, seen.URL.RawQuery, want)
				}
			}
		}
	}
	if f.calls() != 0 {
		t.Error("got a call of a function, want none")
	}
}

// clientTrace is the traceparent of a client that records its trace.
const clientTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestRequestHeaders(t *testing.T) {
	f := newFixture(t, nil)
	got := f.ask(t, http.MethodGet, "/files/1",
		"X-Forwarded-For", "10.1.1.1, 203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "files.example.com", "Forwarded", "for=10.0.0.1",
		"X-Auth-User-Id", "root", "x-auth-roles", "admin", "X_Auth_Scope", "files:any", "X-AUTH_username", "root",
		"X-Client-Address", "10.0.0.1 1 abc", "X_Client_Address", "10.0.0.1", "X_Forwarded_For", "10.0.0.1", "x-client_address", "10.0.0.1",
		"Cookie", "strongroom_session=s3cret; other=1", "Upgrade", "h2c", "Connection", "Upgrade, X-Hop", "X-Hop", "1",
		"X-Gateway-Request", "forged mine 1 abc", "X_Gateway_Request", "forged",
		"X-Request-Id", "mine", "traceparent", clientTrace, "tracestate", "a=b",
		"Ce-Traceparent", "00-x", "Ce-Tracestate", "c=d", // removed: events do not pass through the gateway
		"Authorization", "Bearer abc", "Range", "bytes=0-1", "Accept-Encoding", "br", "User-Agent", "tests")
	last := f.last(t)
	origin, seen := f.originOf(last), last.Header
	if ids := got.header.Values("X-Request-Id"); len(ids) != 1 || ids[0] != origin.ID || origin.ID == "mine" || origin.ClientID != "mine" {
		t.Errorf("got X-Request-Id %q in the response, and origin %+v, want the same new ID, and the client ID mine", ids, origin)
	}
	if origin.Public || origin.Address != netip.MustParseAddr("203.0.113.9") {
		t.Errorf("got origin %+v, want the signed address 203.0.113.9", origin)
	}
	for _, name := range []string{client.HeaderAddress, client.HeaderRequest} {
		if got := seen.Values(name); len(got) != 1 {
			t.Errorf("got %s %q, want one value", name, got)
		}
		delete(seen, name)
	}
	if trace := seen.Get("Traceparent"); trace[3:35] == clientTrace[3:35] || strings.HasSuffix(trace, "-01") {
		t.Errorf("got traceparent %s, want a new trace that is not recorded", trace)
	}
	delete(seen, "Traceparent")
	want := map[string]string{
		"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": parse(t, f.url).Host,
		"X-Request-Id":  origin.ID,
		"Authorization": "Bearer abc", "Range": "bytes=0-1", "Accept-Encoding": "br", "User-Agent": "tests",
	}
	for name, values := range seen {
		if strings.Join(values, "|") != want[name] {
			t.Errorf("files got %s %q, want %q", name, values, want[name])
		}
	}
	for name := range want {
		if len(seen[name]) == 0 {
			t.Errorf("files did not get %s", name)
		}
	}
}

// TestSchemeOfPage proves that the gateway recognizes HTTPS from the origin of its own page, even if the last proxy
// received the request over HTTP.
func TestSchemeOfPage(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.trust.Hops = 1 })
	host := parse(t, f.url).Host
	for name, test := range map[string]struct {
		host, origin string // host is the value of X-Forwarded-Host
		secure       bool
	}{
		"page over HTTPS":      {"", "https://" + host, true},
		"page over HTTP":       {"", "http://" + host, false},
		"another site":         {"", "https://files.example.com", false},
		"another site, forged": {"files.example.com", "https://files.example.com", false},
		"no origin":            {"", "", false},
	} {
		header := []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "http"}
		if test.host != "" {
			header = append(header, "X-Forwarded-Host", test.host)
		}
		if test.origin != "" {
			header = append(header, "Origin", test.origin)
		}
		got := f.ask(t, http.MethodPost, "/login", header...)
		if secure := got.header.Get("Strict-Transport-Security") != ""; secure != test.secure {
			t.Errorf("%s: got Strict-Transport-Security: %t, want %t", name, secure, test.secure)
		}
	}
}

// The gateway trusts only headers from trusted proxies.
func TestForwarded(t *testing.T) {
	for name, test := range map[string]struct {
		hops             int
		forwarded, proto string
		want, address    string
		secure           bool
	}{
		"one proxy":           {1, "203.0.113.9", "https", "203.0.113.9, 127.0.0.1", "203.0.113.9", true},
		"two proxies":         {2, "1.1.1.1, 203.0.113.9, 10.0.0.1", "http", "203.0.113.9, 10.0.0.1, 127.0.0.1", "203.0.113.9", false},
		"past one proxy":      {2, "203.0.113.9", "https", "127.0.0.1", "127.0.0.1", false},
		"no proxy is trusted": {0, "203.0.113.9", "https", "127.0.0.1", "127.0.0.1", false},
		"another protocol":    {1, "203.0.113.9", "ftp", "203.0.113.9, 127.0.0.1", "203.0.113.9", false},
		"no headers":          {1, "", "", "127.0.0.1", "127.0.0.1", false},
	} {
		f := newFixture(t, func(f *fixture) { f.trust.Hops = test.hops })
		for _, path := range []string{"/login", "/accounts/me", "/files"} {
			var header []string
			for name, value := range map[string]string{"X-Forwarded-For": test.forwarded, "X-Forwarded-Proto": test.proto} {
				if value != "" {
					header = append(header, name, value)
				}
			}
			got := f.ask(t, http.MethodPost, path, header...)
			for _, header := range []string{"Strict-Transport-Security", "Cross-Origin-Opener-Policy"} {
				if secure := got.header.Get(header) != ""; secure != test.secure {
					t.Errorf("%s: got %s: %t, want %t", name, header, secure, test.secure)
				}
			}
			seen := f.last(t)
			if got := seen.Header.Get("X-Forwarded-For"); got != test.want {
				t.Errorf("%s: got X-Forwarded-For %q, want %q", name, got, test.want)
			}
			if got := seen.Header.Get("X-Forwarded-Proto"); (got == "https") != test.secure {
				t.Errorf("%s: got X-Forwarded-Proto %q, want https: %t", name, got, test.secure)
			}
			// Verify the signed address as the functions do.
			client.Trust{Hops: 1, Key: []byte(testKey)}.Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if got := request.OriginOf(r.Context()).Address; got != netip.MustParseAddr(test.address) {
					t.Errorf("%s: %s got client address %s, want %s", name, path, got, test.address)
				}
			})).ServeHTTP(httptest.NewRecorder(), seen)
		}
	}
}

// TestForwardedHost checks that a client cannot choose the host with a header, not even through trusted proxies. The
// host is in the names of the cookies and in the X-Forwarded-Host of the functions, which passkeys depend on.
func TestForwardedHost(t *testing.T) {
	const host = "files.example.com:8443"
	for hops := range 4 {
		f := newFixture(t, func(f *fixture) {
			f.trust.Hops = hops
			f.answers["login /login/passkey"] = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tokens) }
		})
		address := f.url
		for range hops {
			address = startProxy(t, address)
		}
		for path, cookie := range map[string]string{"/files": "", "/login/passkey": "", "/session/passkey": "strongroom_session_8443"} {
			r := f.request(t, http.MethodPost, path, strings.NewReader(`{"credential":{}}`), "Content-Type", "application/json",
				"X-Forwarded-Host", "evil.example:1", "X-Forwarded-Host", "evil.example:2")
			r.URL.Host, r.Host = parse(t, address).Host, host
			answer := do(t, r)
			if got := f.last(t).Header.Values("X-Forwarded-Host"); len(got) != 1 || got[0] != host {
				t.Errorf("%d proxies, %s: got X-Forwarded-Host %q, want %s", hops, path, got, host)
			}
			if got := cookieOf(t, answer); cookie != "" && (got == nil || got.Name != cookie) {
				t.Errorf("%d proxies, %s: got cookie %v, want %s", hops, path, got, cookie)
			}
		}
	}
}

// startProxy returns the URL of a proxy to target. Like Envoy, and like Knative's activator and queue-proxy, the proxy
// adds its peer to X-Forwarded-For and leaves Host and X-Forwarded-Host unchanged.
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

func TestAnswerHeaders(t *testing.T) {
	const sandbox = "sandbox; default-src 'none'"
	f := newFixture(t, func(f *fixture) {
		f.answers["files /files/1/content"] = func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Security-Policy", sandbox)
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Cache-Control", "private")
			h.Set("X-Request-Id", "another")
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Access-Control-Allow-Credentials", "true")
			h.Set("Connection", "X-Hop")
			h.Set("X-Hop", "1")
		}
	})
	got := f.ask(t, http.MethodGet, "/files/1/content")
	got.wantFinished(t)
	id := f.originOf(f.last(t)).ID
	for name, want := range map[string]string{
		"Content-Security-Policy": sandbox, "Cache-Control": "private", "X-Request-Id": id,
		"Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": "", "X-Hop": "", "Vary": "",
	} {
		if got := strings.Join(got.header.Values(name), "|"); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	if got := f.ask(t, http.MethodGet, "/files").header.Get("Content-Security-Policy"); got != "default-src 'none'; frame-ancestors 'none'" {
		t.Errorf("got Content-Security-Policy %q, want the default policy", got)
	}
}

func TestConsole(t *testing.T) {
	f := newFixture(t, nil, friend)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got := f.ask(t, method, "/", "Origin", friend)
		got.wantFinished(t)
		policy := got.header.Get("Content-Security-Policy")
		if got.status != http.StatusOK || got.header.Get("Content-Type") != "text/html; charset=utf-8" || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s /: got status %d and headers %v, want the HTML page and no CORS headers", method, got.status, got.header)
		}
		if strings.Contains(policy, "unsafe-") || strings.Contains(policy, "*") {
			t.Errorf("got Content-Security-Policy %s, want no wildcard and no unsafe source", policy)
		}
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !slices.Contains(strings.Split(policy, "; "), want) {
				t.Errorf("got Content-Security-Policy without %s: %s", want, policy)
			}
		}
	}
	f.ask(t, http.MethodPost, "/").wantProblem(t, http.StatusNotFound, "not-found")
	if f.calls() != 0 {
		t.Error("got a call of a function, want none")
	}
}

func TestSetup(t *testing.T) {
	key := t.TempDir() + "/key"
	write(t, key, testKey)
	good := config{
		LoginURL: "http://login.strongroom.svc.cluster.local", ValidateURL: "http://validate:80/", UploadURL: "https://upload", FilesURL: "http://[::1]:8080",
		AccountsURL: "http://127.0.0.1:1", TrustSettings: client.TrustSettings{GatewayKeyFile: key}, CORSOrigins: []string{"https://app.example.com", " http://localhost:5173"},
		PolicySettings: password.PolicySettings{MinLength: 12},
	}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // part of the error, or empty for no error
	}{
		"valid":              {func(*config) {}, ""}, // setup connects to nothing
		"negative hops":      {func(c *config) { c.TrustedHops = -1 }, "TRUSTED_HOPS"},
		"no key file":        {func(c *config) { c.GatewayKeyFile = key + "x" }, "GATEWAY_KEY_FILE"},
		"key file not set":   {func(c *config) { c.GatewayKeyFile = "" }, "GATEWAY_KEY_FILE"},
		"a path":             {func(c *config) { c.LoginURL = "http://login/x" }, "LOGIN_URL"},
		"a query":            {func(c *config) { c.FilesURL = "http://files?x" }, "FILES_URL"},
		"no host":            {func(c *config) { c.UploadURL = "upload:80" }, "UPLOAD_URL"},
		"a password":         {func(c *config) { c.AccountsURL = "http://u:s3cret@accounts" }, "ACCOUNTS_URL"},
		"not a URL":          {func(c *config) { c.AccountsURL = "http://s3cret\x7f" }, "ACCOUNTS_URL"},
		"all origins":        {func(c *config) { c.CORSOrigins = []string{"*"} }, "CORS_ORIGINS"},
		"origin with a path": {func(c *config) { c.CORSOrigins = []string{"https://app.example.com/"} }, "CORS_ORIGINS"},
		"uppercase origin":   {func(c *config) { c.CORSOrigins = []string{"https://App.example.com"} }, "CORS_ORIGINS"},
		"an empty origin":    {func(c *config) { c.CORSOrigins = []string{""} }, "CORS_ORIGINS"},
		"minimum length":     {func(c *config) { c.MinLength = 7 }, "PASSWORD_MIN_LENGTH"},
		"the origin null":    {func(c *config) { c.CORSOrigins = []string{"null"} }, "CORS_ORIGINS"},
	} {
		cfg := good
		test.change(&cfg)
		_, err := setup(t.Context(), cfg)
		if (test.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: got error %v, want %q in it and no password", name, err, test.want)
		}
	}
}

// A route's patience is at least 15 s and at most its timeout. Its timeout is shorter than the gateway's
// REQUEST_TIMEOUT, which is 595 s in the manifest.
func TestTimeoutsAreInStep(t *testing.T) {
	for _, r := range newRoutes(map[string]*url.URL{}) {
		if r.patience < 15*time.Second || r.timeout < r.patience || r.timeout >= 595*time.Second {
			t.Errorf("%s: got patience %v and timeout %v", r.path, r.patience, r.timeout)
		}
	}
}
