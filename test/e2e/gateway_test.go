//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/browser"
)

// credentials returns the request body with which the first admin signs in.
func (s *system) credentials(t *testing.T) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]string{"username": s.username, "password": s.password})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// sessionCookie returns the session cookie in the response to a sign-in. The response must contain only this cookie and
// the device cookie, and scripts must not be able to read them.
func (a answer) sessionCookie(t *testing.T) (session *http.Cookie) {
	t.Helper()
	cookies := (&http.Response{Header: a.header}).Cookies()
	var names []string
	for _, cookie := range cookies {
		names = append(names, cookie.Name)
		if strings.Contains(cookie.Name, "strongroom_session") {
			session = cookie
		}
		if !cookie.HttpOnly {
			t.Errorf("sign in: got the cookie %s without HttpOnly, want HttpOnly", cookie.Name)
		}
	}
	if all := strings.Join(names, " "); a.status != http.StatusOK || len(cookies) != 2 || session == nil || !strings.Contains(all, "strongroom_device") {
		t.Fatalf("sign in: got %d with the cookies %q, want 200 with a session cookie and a device cookie", a.status, all)
	}
	return session
}

// TestGateway proves that a browser can sign in, upload and download a file, and sign out through the gateway. The
// gateway has no route to internal functions, and refuses session requests from another site.
func TestGateway(t *testing.T) {
	s := open(t)
	through := s.throughGateway()
	begun := through.call(t, http.MethodPost, "gateway", "/session", "",
		map[string]string{"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}, s.credentials(t))
	var session struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.Unmarshal(begun.body, &session); begun.status != http.StatusOK || err != nil || session.AccessToken == "" || session.RefreshToken != "" {
		t.Fatalf("sign in: got %d (%v), refresh token %t, want 200 with an access token and no refresh token",
			begun.status, err, session.RefreshToken != "")
	}
	stored := begun.sessionCookie(t)
	through.token, through.issued = session.AccessToken, time.Now()
	f := newFile("through the gateway.bin", 5<<20)
	through.upload(t, f)
	through.catalogued(t, f, 2*time.Minute)
	through.download(t, f)
	if got := through.call(t, http.MethodGet, "gateway", "/accounts/me", session.AccessToken, nil, nil); got.status != http.StatusOK {
		t.Errorf("GET /accounts/me: got %s, want 200", got)
	}

	// The gateway has no route to record, and a page on another site cannot use the session.
	cookie := map[string]string{"Cookie": stored.Name + "=" + stored.Value}
	if got := through.call(t, http.MethodPost, "gateway", "/record", "", nil, nil); got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST /record: got %s, want 404 or 405", got)
	}
	cookie["Sec-Fetch-Site"] = "cross-site"
	if got := through.call(t, http.MethodPost, "gateway", "/session/refresh", "", cookie, nil); got.status != http.StatusForbidden || got.problem() != "cross-site" {
		t.Errorf("refresh from another site: got %d %s, want 403 cross-site", got.status, got.problem())
	}
	delete(cookie, "Sec-Fetch-Site")
	if got := through.call(t, http.MethodDelete, "gateway", "/session", "", cookie, nil); got.status != http.StatusNoContent {
		t.Errorf("sign out: got %s, want 204", got)
	}
	if got := through.call(t, http.MethodPost, "gateway", "/session/refresh", "", cookie, nil); got.status != http.StatusUnauthorized || got.problem() != "session-ended" {
		t.Errorf("refresh after signing out: got %d %s, want 401 session-ended", got.status, got.problem())
	}
}

// TestEarlyAnswers proves that a response that is sent before the request body was read does not corrupt a connection
// of the proxies in between. The next request on a corrupt connection would fail.
func TestEarlyAnswers(t *testing.T) {
	s := open(t)
	for function, path := range map[string]string{"gateway": "/nothing", "upload": "/upload"} {
		answers := map[int]int{}
		// Without the fix, a third of the requests to the gateway failed, and one in a few hundred requests to upload.
		for range 500 {
			answers[s.call(t, http.MethodPost, function, path, "", nil, []byte("{}")).status]++
		}
		for status, n := range answers {
			if status != http.StatusNotFound && status != http.StatusUnauthorized {
				t.Errorf("%s: got status %d for %d of 500 requests, want only 401 or 404", function, status, n)
			}
		}
	}
}

// traceOfRequest returns the trace ID in the gateway's log line of the request with the given ID.
func traceOfRequest(t *testing.T, id string) (trace string) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		for line := range strings.Lines(kubectl(t, "logs", "--selector", "app.kubernetes.io/name=gateway", "--container", "gateway", "--tail=-1")) {
			var l struct {
				Message string `json:"msg"`
				Request string `json:"request_id"`
				Trace   string `json:"trace_id"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Message == "request" && l.Request == id {
				trace = l.Trace
				return ""
			}
		}
		return "the gateway has not logged the request " + id
	})
	return trace
}

// TestOneTrace proves that the upload of a file is one trace through the cluster's proxies and RabbitMQ. The gateway,
// upload and record log the same trace ID, which is not the client's.
func TestOneTrace(t *testing.T) {
	s := open(t)
	const theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
	f := newFile("traced.bin", 1<<20)
	got := s.call(t, http.MethodPost, "gateway", "/upload?name=traced.bin", s.signedIn(t),
		map[string]string{"traceparent": "00-" + theirs + "-00f067aa0ba902b7-01"}, f.content)
	trace := traceOfRequest(t, got.header.Get("X-Request-Id"))
	if trace == theirs {
		t.Errorf("got the client's trace %s, want a new trace", trace)
	}
	var stored struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(got.body, &stored); got.status != http.StatusAccepted || err != nil {
		t.Fatalf("upload: got %s, want 202", got)
	}
	f.id = stored.ID
	s.catalogued(t, f, 2*time.Minute)
	eventually(t, time.Minute, func() string {
		lines := map[string]bool{}
		for line := range strings.Lines(kubectl(t, "logs", "--selector", "app.kubernetes.io/component=function", "--tail=-1")) {
			var l struct {
				Message string `json:"msg"`
				Service string `json:"service"`
				Trace   string `json:"trace_id"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Message == "request" && l.Trace == trace {
				lines[l.Service] = true
			}
		}
		if !lines["gateway"] || !lines["upload"] || !lines["record"] {
			return fmt.Sprintf("got trace %s in the request logs of %v, want gateway, upload and record", trace, lines)
		}
		return ""
	})
}

// TestGatewaySendsClientAddress proves that login uses the same client address for requests through the gateway and for
// direct requests. The test reads the address from the audit entry of a logout of all sessions. The lockout uses the
// same address.
func TestGatewaySendsClientAddress(t *testing.T) {
	s := open(t)
	addresses := map[string]bool{}
	for _, via := range []string{"login", "gateway"} {
		var session struct {
			RefreshToken string `json:"refresh_token"`
		}
		s.call(t, http.MethodPost, via, "/login", "", asJSON, s.credentials(t)).decode(t, http.StatusOK, &session)
		got := s.call(t, http.MethodPost, via, "/logout?scope=all", "", asJSON, []byte(`{"refresh_token":"`+session.RefreshToken+`"}`))
		if got.status != http.StatusNoContent {
			t.Fatalf("logout through %s: got %s, want 204", via, got)
		}
		s.token = "" // the logout has voided the token
		var trail struct {
			Entries []struct {
				Action  string `json:"action"`
				Address string `json:"address"`
			} `json:"entries"`
		}
		s.call(t, http.MethodGet, "accounts", "/accounts/audit?limit=2", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &trail)
		// The newest entry is the sign-in that this request needed.
		if len(trail.Entries) != 2 || trail.Entries[1].Action != "sessions.ended" || trail.Entries[1].Address == "" {
			t.Fatalf("audit trail after a logout through %s: got %+v, want sessions.ended with an address", via, trail)
		}
		addresses[trail.Entries[1].Address] = true
	}
	if len(addresses) != 1 {
		t.Errorf("got the client addresses %v, want the same address twice", addresses)
	}
}

// onlyGateway returns the Services of all functions. It skips the test if functions other than the gateway are public.
func onlyGateway(t *testing.T) map[string]service {
	t.Helper()
	all := services(t)
	if !strings.HasSuffix(all["login"].Status.URL, clusterSuffix) {
		t.Skip("SKIPPED: the functions are public; this test needs EXPOSE=gateway")
	}
	return all
}

// TestConsole runs the browser test of package browser against the only public address. At the start of the test, all
// functions except the gateway are scaled to zero.
func TestConsole(t *testing.T) {
	all := onlyGateway(t)
	s := open(t)
	asleep(t)
	browser.Try(t, "../browser", all["gateway"].Status.URL, s.username, s.password)
}

// TestOnlyTheGatewayIsPublic proves that with EXPOSE=gateway, the ingress forwards no requests to other functions.
func TestOnlyTheGatewayIsPublic(t *testing.T) {
	all := onlyGateway(t)
	gateway, err := url.Parse(all["gateway"].Status.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if name == "gateway" {
			continue
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gateway.String()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{strings.Replace(gateway.Host, "gateway.", name+".", 1), name + "." + namespace + clusterSuffix} {
			request.Host = host
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusNotFound {
				t.Errorf("GET /healthz of %s through the ingress with the host %s: got %s, want 404", name, host, response.Status)
			}
		}
	}
}
