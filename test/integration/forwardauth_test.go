package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// TestForwardAuth runs the configurations of docs/forward-auth.md in the real proxies and with the real validate
// function. It changes only the addresses in them.
func TestForwardAuth(t *testing.T) {
	for _, proxy := range []struct {
		name  string
		start func(t *testing.T, validate, app string) (address string)
		// verbatim reports whether the proxy passes validate's problem document to the client.
		verbatim bool
		// host is the Host that validate receives. It is empty if the proxy takes the Host from validate's address, which
		// the test has replaced.
		host string
		// twice is the proxy's status for a request with two tokens.
		twice int
		// away is the proxy's status if validate is unreachable or closes the connection without a response.
		away int
		// failing returns the proxy's status if validate responds with a status that neither allows nor refuses the
		// request.
		failing func(status int) int
	}{
		{"nginx", startNginx, false, "validate.strongroom.svc.cluster.local", 400, 503, func(int) int { return 503 }},
		{"traefik", startTraefik, true, "", 400, 500, func(status int) int { return status }},
		{"envoy", startEnvoy, true, "validate.strongroom.svc.cluster.local", 401, 503, func(status int) int {
			if status >= 500 {
				return 503
			}
			return status
		}},
	} {
		t.Run(proxy.name, func(t *testing.T) {
			signer, keys := newTokenKeys(t)
			validate := newWatched(t, runFunction(t, "validate",
				"TOKEN_KEYS_FILE="+keys, "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"))
			app := newApp(t)
			f := &forwarding{
				validate: validate, app: app, verbatim: proxy.verbatim, host: proxy.host, twice: proxy.twice,
				user:  bearerOf(t, signer, "0190-ada", "ada", token.RoleUser),
				admin: bearerOf(t, signer, "0190-grace", "grâce ♥", token.RoleUser, token.RoleAdmin),
			}
			f.address = proxy.start(t, validate.address(), app.address())
			t.Run("refused", f.refuses)
			t.Run("allowed", f.letsThrough)
			t.Run("spoofed headers", f.keepsSpoofedHeadersOut)
			t.Run("every method", f.takesEveryMethod)
			t.Run("unusual paths", f.matchesWhatItPassesOn)
			t.Run("request to validate", f.asksRight)
			t.Run("validate fails", func(t *testing.T) {
				for _, status := range []int{500, 502, 503, 504} {
					validate.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
					f.wantRefused(t, fmt.Sprint(status), f.send(t, "GET", "/x", f.user), proxy.failing(status))
				}
				for _, status := range []int{302, 404} { // another service at validate's address could return these
					validate.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
					f.wantRefused(t, fmt.Sprint(status), f.send(t, "GET", "/x", f.user), proxy.failing(status))
				}
				validate.answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
				f.wantRefused(t, "connection closed", f.send(t, "GET", "/x", f.user), proxy.away)
			})
			t.Run("validate works again", f.letsThrough)
			t.Run("validate is unreachable", func(t *testing.T) {
				validate.server.CloseClientConnections()
				validate.server.Close()
				f.wantRefused(t, "valid token", f.send(t, "GET", "/x", f.user), proxy.away)
				f.wantRefused(t, "no token", f.send(t, "POST", "/admin/", "X-Auth-User-Id: 0190-grace"), proxy.away)
			})
		})
	}
}

// forwarding is a proxy together with its validate function and the app behind it. validate and app record the requests
// that they receive.
type forwarding struct {
	address     string
	validate    *watched
	app         *app
	verbatim    bool
	host        string
	twice       int
	user, admin string // Authorization header lines
}

func (f *forwarding) send(t *testing.T, method, target string, headers ...string) reply {
	t.Helper()
	return send(t, f.address, method, target, nil, headers...)
}

// wantRefused checks the status, and that the app received no request.
func (f *forwarding) wantRefused(t *testing.T, what string, got reply, status int) {
	t.Helper()
	if got.status != status {
		t.Errorf("%s: got status %d, want %d: %s", what, got.status, status, got.body)
	}
	if seen := f.app.take(); len(seen) > 0 {
		t.Errorf("%s: the app received %+v, want no request", what, seen)
	}
}

// wantPassed checks that the app received one request, and returns the request. The request must have exactly the
// X-Auth headers in want, no header whose name an app could take for an X-Auth header, and no Authorization header.
func (f *forwarding) wantPassed(t *testing.T, what string, got reply, want map[string]string) *heard {
	t.Helper()
	seen := f.app.take()
	if got.status != 200 || len(seen) != 1 {
		t.Errorf("%s: got status %d (%s) and %d requests to the app, want 200 and 1", what, got.status, got.body, len(seen))
		return nil
	}
	like := map[string][]string{}
	for name, values := range seen[0].Header {
		if name := plain(name); strings.HasPrefix(name, "x-auth-") {
			like[name] = append(like[name], values...)
		}
	}
	for name, value := range want {
		if got := like[plain(name)]; !slices.Equal(got, []string{value}) {
			t.Errorf("%s: the app received %s %q, want only %q", what, name, got, value)
		}
		delete(like, plain(name))
	}
	if len(like) > 0 {
		t.Errorf("%s: the app also received %q", what, like)
	}
	if values := seen[0].Header.Values("Authorization"); len(values) > 0 {
		t.Errorf("%s: the app received the access token", what)
	}
	return &seen[0]
}

// plain returns a canonical form of a header name. CGI, WSGI and PHP do not distinguish header names with the same
// form.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

var (
	ada = map[string]string{
		"X-Auth-User-Id": "0190-ada", "X-Auth-Username": "ada", "X-Auth-Roles": "user", "X-Auth-Scope": "files:read files:write",
	}
	grace = map[string]string{
		"X-Auth-User-Id": "0190-grace", "X-Auth-Username": "grâce ♥", "X-Auth-Roles": "user admin",
		"X-Auth-Scope": "files:read files:write files:any accounts:manage",
	}
)

// refuses proves that the proxy refuses requests without a valid token or the required scope. It checks the status, the
// challenge and the problem document.
func (f *forwarding) refuses(t *testing.T) {
	const realm = `Bearer realm="strongroom"`
	forbidden := realm + `, error="insufficient_scope", scope="accounts:manage"`
	for name, c := range map[string]struct {
		target    string
		headers   []string
		status    int
		challenge string // prefix of the WWW-Authenticate header
		problem   string
	}{
		"no token":           {"/", nil, 401, realm, "unauthenticated"},
		"no token, admin":    {"/admin/", nil, 401, realm, "unauthenticated"},
		"HTML":               {"/a/page.html", []string{"Accept: text/html"}, 401, realm, "unauthenticated"},
		"bad token":          {"/", []string{f.user + "x"}, 401, realm + `, error="invalid_token"`, "unauthenticated"},
		"another scheme":     {"/", []string{"Authorization: Basic YWRhOmxvdmVsYWNl"}, 401, realm, "unauthenticated"},
		"token in the query": {"/?access_token=" + strings.TrimPrefix(f.user, "Authorization: Bearer "), nil, 401, realm, "unauthenticated"},
		"empty token":        {"/", []string{"Authorization: Bearer "}, 400, realm + `, error="invalid_request"`, "bad-request"},
		"missing scope":      {"/admin/users", []string{f.user}, 403, forbidden, "insufficient-scope"},
		"scope in the query": {"/admin/?scope=files:read", []string{f.user}, 403, forbidden, "insufficient-scope"},
		"hop-by-hop token":   {"/", []string{f.user, "Connection: close, Authorization"}, 401, realm, "unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.send(t, "GET", c.target, c.headers...)
			if name == "hop-by-hop token" && got.status == 200 {
				f.wantPassed(t, name, got, ada) // nginx does not remove headers that Connection lists
				return
			}
			f.wantRefused(t, name, got, c.status)
			if got := got.header.Values("Www-Authenticate"); len(got) != 1 || !strings.HasPrefix(got[0], c.challenge) {
				t.Errorf("got the challenges %q, want one challenge with the prefix %s", got, c.challenge)
			}
			var document problem.Document
			if err := json.Unmarshal([]byte(got.body), &document); err != nil {
				t.Fatalf("decode the problem document %s: %v", got.body, err)
			}
			if document.Type != "urn:strongroom:problem:"+c.problem || document.Status != c.status || document.Title == "" || document.Instance == "" {
				t.Errorf("got the problem %+v, want %s", document, c.problem)
			}
			if f.verbatim == (document.Detail == "") {
				t.Errorf("got the detail %q, want a detail: %t", document.Detail, f.verbatim)
			}
			if got := got.header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("got Content-Type %q, want application/problem+json", got)
			}
		})
	}
	f.wantRefused(t, "two tokens", f.send(t, "GET", "/", f.user, f.user), f.twice)
}

// letsThrough proves that the proxy passes an authorized request to the app, with the caller's identity in its headers
// and with the URI and Host of the client.
func (f *forwarding) letsThrough(t *testing.T) {
	f.validate.answer(nil)
	f.wantPassed(t, "user", f.send(t, "GET", "/", f.user), ada)
	f.wantPassed(t, "admin", f.send(t, "GET", "/", f.admin), grace)
	f.wantPassed(t, "admin's scope", f.send(t, "GET", "/admin/users?scope=none", f.admin), grace)
	if got := f.wantPassed(t, "query", f.send(t, "GET", "/a/b?x=%2F&y=1", f.user), ada); got != nil {
		if want := "/a/b?x=%2F&y=1"; got.URI != want {
			t.Errorf("the app received the URI %s, want %s", got.URI, want)
		}
		if want := "app.example.com"; got.Host != want {
			t.Errorf("the app received the Host %s, want %s", got.Host, want)
		}
	}
}

// keepsSpoofedHeadersOut proves that X-Auth headers from the client never reach the app, in any spelling.
func (f *forwarding) keepsSpoofedHeadersOut(t *testing.T) {
	for name, spoofed := range map[string][]string{
		"plain":                   {"X-Auth-User-Id: 0190-grace", "X-Auth-Username: grace", "X-Auth-Roles: admin", "X-Auth-Scope: accounts:manage"},
		"unusual case":            {"x-auth-user-id: 0190-grace", "X-AUTH-ROLES: admin", "x-AuTh-sCoPe: accounts:manage"},
		"duplicated":              {"X-Auth-Roles: admin", "X-Auth-Roles: user", "x-auth-roles: admin"},
		"empty":                   {"X-Auth-Roles:", "X-Auth-User-Id: "},
		"underscores":             {"X_Auth_User_Id: 0190-grace", "X_AUTH_ROLES: admin", "x_auth_scope: accounts:manage"},
		"hyphens and underscores": {"X-Auth_User-Id: 0190-grace", "X_Auth-Roles: admin", "X-Auth_Scope: accounts:manage"},
		"other punctuation":       {"X.Auth.Roles: admin", "X-Auth~Roles: admin", "X!Auth!User!Id: 0190-grace"},
		"unknown names":           {"X-Auth-Admin: true", "X-Auth-Role: admin"},
		"hop by hop":              {"Connection: close, X-Auth-User-Id, X-Auth-Roles, X-Auth-Scope, X-Auth-Username"},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.send(t, "GET", "/x", append(spoofed, f.user)...)
			if name == "unknown names" {
				f.app.forget("X-Auth-Admin", "X-Auth-Role") // nginx replaces only the four headers of its configuration
			}
			f.wantPassed(t, "valid token", got, ada)
			f.wantRefused(t, "no token", f.send(t, "GET", "/x", spoofed...), 401)
			f.wantRefused(t, "bad token", f.send(t, "GET", "/x", append(spoofed, f.user+"x")...), 401)
			f.wantRefused(t, "missing scope", f.send(t, "GET", "/admin/", append(spoofed, f.user)...), 403)
		})
	}
	// A default page at validate's address responds with 200 and names no user.
	f.validate.answer(func(http.ResponseWriter, *http.Request) {})
	defer f.validate.answer(nil)
	f.wantPassed(t, "a response without X-Auth headers", f.send(t, "GET", "/x", "X-Auth-User-Id: 0190-grace", "X-AUTH-ROLES: admin", "X_Auth_Scope: any"), nil)
}

// takesEveryMethod proves that the proxy authorizes requests of every method and passes their bodies on unchanged.
func (f *forwarding) takesEveryMethod(t *testing.T) {
	body := bytes.Repeat([]byte("Strongroom keeps it whole.\x00\xff\r\n"), 1<<20/30+1)[:1<<20]
	sum := sha256.Sum256(body)
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		t.Run(method, func(t *testing.T) {
			ways := [][]string{{f.user}, {f.user, chunked}}
			sent := body
			if method == "GET" || method == "HEAD" {
				ways, sent = ways[:1], nil
			}
			for _, headers := range ways {
				got := f.wantPassed(t, method, send(t, f.address, method, "/files", sent, headers...), ada)
				if got == nil {
					return
				}
				if got.Method != method {
					t.Errorf("the app received the method %s, want %s", got.Method, method)
				}
				if sent != nil && (got.Size != len(body) || got.SHA256 != hex.EncodeToString(sum[:])) {
					t.Errorf("the app received %d bytes with the digest %s, want %d with %x", got.Size, got.SHA256, len(body), sum)
				}
			}
			f.wantRefused(t, "no token", f.send(t, method, "/files"), 401)
			f.wantRefused(t, "missing scope", f.send(t, method, "/admin/files", f.user), 403)
		})
	}
}

// matchesWhatItPassesOn proves that the proxy checks the same path that the app receives. A request must not have a
// path that is below /admin/ for the app but not for the proxy.
func (f *forwarding) matchesWhatItPassesOn(t *testing.T) {
	for _, target := range []string{
		"//x", "/x//y", "/a%20b", "/a%20b/%C3%A9", "/x/../y", "/x/%2e%2e/y", "/x/%2E%2E%2Fy", "/%2e%2e/%2e%2e/etc/passwd", "/x/.", "/x;y=1/z",
		"/x%3Fy", "/x%23y", "/x%252fy", "/x%00y", "/x\\y", "/x%5cy", "/validate", "/healthz", "/-/validate/token",
		"/admin", "/admin/", "//admin/", "/./admin/", "/x/../admin/", "/x/%2e%2e/admin/", "/x/..%2fadmin/", "/x%2f..%2fadmin/", "/%61dmin/",
		"/admin%2fusers", "/admin/../admin/users", "/x/%2e%2e%2fadmin%2fusers", "/%2fadmin/", "/x/..%5cadmin/", "/x/..\\admin/", "/x\\..\\admin/", "/x;/../admin/", "/admin;x/",
		"/x/..;/admin/", "/x%252f..%252fadmin/", "/admin%00/", "http://app.example.com/admin/", "http://elsewhere.example/admin/",
	} {
		t.Run(target, func(t *testing.T) {
			got := f.send(t, "GET", target)
			if got.status < 300 || got.status >= 500 {
				t.Errorf("no token: got status %d: %s", got.status, got.body)
			}
			f.wantRefused(t, "no token", got, got.status)
			got = f.send(t, "GET", target, f.user)
			seen := f.app.take()
			switch {
			case got.status >= 500 || got.status == 401:
				t.Errorf("user: got status %d: %s", got.status, got.body)
			case len(seen) == 0:
				if got.status < 300 {
					t.Errorf("user: got status %d without a request to the app: %s", got.status, got.body)
				}
			case strings.HasPrefix(path.Clean("/"+strings.ReplaceAll(seen[0].Path, `\`, "/"))+"/", "/admin/"):
				t.Errorf("a user without the scope reached %s", seen[0].URI)
			}
		})
	}
	for target, want := range map[string]string{
		"//x": "/x", "/x//y": "/x/y", "/a%20b": "/a b", "/x/%2e%2e/y": "/y", "/a%20b/%C3%A9": "/a b/é", "/validate": "/validate", "/healthz": "/healthz",
	} {
		if got := f.wantPassed(t, target, f.send(t, "GET", target, f.user), ada); got != nil && got.Path != want {
			t.Errorf("%s: the app received the path %s, want %s", target, got.Path, want)
		}
	}
}

// asksRight proves that the proxy sends the correct request to validate: a GET without the client's body, cookies and
// X-Auth headers, and with the client's method and URI in X-Forwarded headers.
func (f *forwarding) asksRight(t *testing.T) {
	f.validate.take()
	got := send(t, f.address, "PATCH", "/admin/x?y=1", []byte("a body"), f.admin, "Cookie: secret=1", "X-Auth-Roles: admin",
		"X-Forwarded-Method: GET", "X-Forwarded-Uri: /harmless")
	f.wantPassed(t, "PATCH", got, grace)
	asked := f.validate.take()
	if len(asked) != 1 {
		t.Fatalf("validate received %d requests, want 1", len(asked))
	}
	if asked[0].URI != "/validate?scope=accounts:manage" || asked[0].Method != "GET" || asked[0].Size != 0 {
		t.Errorf("got %s %s with %d bytes, want GET /validate?scope=accounts:manage with 0 bytes",
			asked[0].Method, asked[0].URI, asked[0].Size)
	}
	for name, want := range map[string]string{
		"Authorization": strings.TrimPrefix(f.admin, "Authorization: "), "Cookie": "", "X-Auth-Roles": "",
		"X-Forwarded-Method": "PATCH", "X-Forwarded-Uri": "/admin/x?y=1",
	} {
		if got := strings.Join(asked[0].Header.Values(name), "|"); got != want {
			t.Errorf("validate received %s %q, want %q", name, got, want)
		}
	}
	if got := asked[0].Host; f.host != "" && got != f.host {
		t.Errorf("validate received the Host %q, want %q", got, f.host)
	}
}
