//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/browser"
)

// credentials are the first admin's as JSON.
func (s *system) credentials(t *testing.T) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]string{"username": s.username, "password": s.password})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// What a person does in a browser, at one address.
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
		t.Fatalf("sign in: %d, %v, a refresh token %t", begun.status, err, session.RefreshToken != "")
	}
	cookies := (&http.Response{Header: begun.header}).Cookies()
	if len(cookies) != 1 || cookies[0].Name != "strongroom_session" || !cookies[0].HttpOnly {
		t.Fatalf("sign in sets %d cookies", len(cookies))
	}
	through.token, through.issued = session.AccessToken, time.Now()
	f := newFile("through the gateway.bin", 5<<20)
	through.upload(t, f)
	through.catalogued(t, f, 2*time.Minute)
	through.download(t, f)
	if got := through.call(t, http.MethodGet, "gateway", "/accounts/me", session.AccessToken, nil, nil); got.status != http.StatusOK {
		t.Errorf("the own account: %s", got)
	}

	// What is for no user is not behind it, and a page of another site gets no session.
	cookie := map[string]string{"Cookie": cookies[0].Name + "=" + cookies[0].Value}
	if got := through.call(t, http.MethodPost, "gateway", "/record", "", nil, nil); got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed {
		t.Errorf("record: %s", got)
	}
	cookie["Sec-Fetch-Site"] = "cross-site"
	if got := through.call(t, http.MethodPost, "gateway", "/session/refresh", "", cookie, nil); got.status != http.StatusForbidden || got.problem() != "cross-site" {
		t.Errorf("a refresh from another site: %d %s", got.status, got.problem())
	}
	delete(cookie, "Sec-Fetch-Site")
	if got := through.call(t, http.MethodDelete, "gateway", "/session", "", cookie, nil); got.status != http.StatusNoContent {
		t.Errorf("sign out: %s", got)
	}
	if got := through.call(t, http.MethodPost, "gateway", "/session/refresh", "", cookie, nil); got.status != http.StatusUnauthorized || got.problem() != "session-ended" {
		t.Errorf("a refresh after signing out: %d %s", got.status, got.problem())
	}
}

// Answers that come before the body was read spoil none of the connections on the way, where the next request would be lost.
func TestEarlyAnswers(t *testing.T) {
	s := open(t)
	for function, path := range map[string]string{"gateway": "/nothing", "upload": "/upload"} {
		answers := map[int]int{}
		for range 500 { // when this went wrong, a third of them did at the gateway, and one in a few hundred at upload
			answers[s.call(t, http.MethodPost, function, path, "", nil, []byte("{}")).status]++
		}
		for status, n := range answers {
			if status != http.StatusNotFound && status != http.StatusUnauthorized {
				t.Errorf("%d of 500 requests that %s refuses got a %d", n, function, status)
			}
		}
	}
}

// One file is one trace, through the cluster's proxies and RabbitMQ: the client's trace id is in the logs of all functions
// that have to do with it.
func TestOneTrace(t *testing.T) {
	s := open(t)
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	trace := hex.EncodeToString(id[:])
	f := newFile("traced.bin", 1<<20)
	got := s.call(t, http.MethodPost, "gateway", "/upload?name=traced.bin", s.signedIn(t),
		map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"}, f.content)
	var stored struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(got.body, &stored); got.status != http.StatusAccepted || err != nil {
		t.Fatalf("upload: %s", got)
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
			return fmt.Sprintf("trace %s is in the request logs of %v, want gateway, upload and record", trace, lines)
		}
		return ""
	})
}

// The client's address is the same through the gateway as directly: in the audit trail, which a logout of all sessions is
// on, and so for the lockout.
func TestGatewayTellsTheClientsAddress(t *testing.T) {
	s := open(t)
	addresses := map[string]bool{}
	for _, via := range []string{"login", "gateway"} {
		var session struct {
			RefreshToken string `json:"refresh_token"`
		}
		s.call(t, http.MethodPost, via, "/login", "", asJSON, s.credentials(t)).decode(t, http.StatusOK, &session)
		got := s.call(t, http.MethodPost, via, "/logout?scope=all", "", asJSON, []byte(`{"refresh_token":"`+session.RefreshToken+`"}`))
		if got.status != http.StatusNoContent {
			t.Fatalf("logout through %s: %s", via, got)
		}
		s.token = "" // void
		var trail struct {
			Entries []struct {
				Action  string `json:"action"`
				Address string `json:"address"`
			} `json:"entries"`
		}
		s.call(t, http.MethodGet, "accounts", "/accounts/audit?limit=1", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &trail)
		if len(trail.Entries) != 1 || trail.Entries[0].Address == "" {
			t.Fatalf("the trail after a logout through %s: %+v", via, trail)
		}
		addresses[trail.Entries[0].Address] = true
	}
	if len(addresses) != 1 {
		t.Errorf("the client has the addresses %v, want one", addresses)
	}
}

// onlyGateway returns all services, and skips the test unless the gateway alone is public.
func onlyGateway(t *testing.T) map[string]service {
	t.Helper()
	all := services(t)
	if !strings.HasSuffix(all["login"].Status.URL, clusterSuffix) {
		t.Skip("the functions are public: this is for EXPOSE=gateway")
	}
	return all
}

// A visit in Chromium to the one public address, which finds every function behind it asleep: see package browser.
func TestConsole(t *testing.T) {
	all := onlyGateway(t)
	s := open(t)
	asleep(t)
	browser.Try(t, "../browser", all["gateway"].Status.URL, s.username, s.password)
}

// With EXPOSE=gateway no other function answers at the ingress.
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
				t.Errorf("%s answers %s from outside as %s", name, response.Status, host)
			}
		}
	}
}
