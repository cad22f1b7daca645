package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// browserTime bounds a visit in Chromium.
const browserTime = 100 * time.Second

// browse opens a URL of example.test, which is on loopback, in Chromium until the visit leads to a first event. It
// returns the event.
func browse[E any](t *testing.T, url string, events <-chan E) (first E) {
	t.Helper()
	chromium := ""
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && chromium == "" {
			chromium = path
		}
	}
	if chromium == "" {
		servertest.Need(t, "chromium", fmt.Errorf("chromium: %w", store.ErrNotInstalled))
	}
	profile, err := os.MkdirTemp("", "strongroom-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(profile)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- process.Run(ctx, exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir="+profile,
			"--ignore-certificate-errors", "--host-resolver-rules=MAP *.example.test 127.0.0.1", "--remote-debugging-port=0", url))
	}()
	select {
	case first = <-events:
	case err := <-ended:
		t.Fatalf("open %s: Chromium ended: %v", url, err)
	case <-time.After(browserTime):
		t.Fatalf("open %s: got no event within %v", url, browserTime)
	}
	stop()
	<-ended
	return first
}

// startTLS starts a proxy that ends TLS in front of a gateway, and returns its port. The proxy calls watch with each
// response, which watch can change.
func startTLS(t *testing.T, gateway string, watch func(*http.Response)) (port string) {
	t.Helper()
	target, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	return portOf(t, httptest.NewTLSServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		ModifyResponse: func(r *http.Response) error {
			watch(r)
			return nil
		},
	}))
}

// portOf returns the port of a server, which it stops after the test.
func portOf(t *testing.T, server *httptest.Server) string {
	t.Helper()
	t.Cleanup(server.Close)
	return server.URL[strings.LastIndexByte(server.URL, ':')+1:]
}

// TestNeighborSetsSession proves in a browser that a site on the same domain cannot set the session that a visitor of
// the console uses, because the name of the session cookie has the prefix __Host-.
func TestNeighborSetsSession(t *testing.T) {
	const refresh = "mallorys-refresh-token"
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || r.URL.Path != "/refresh" || !strings.Contains(string(body), refresh) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"at","token_type":"Bearer","expires_in":900,"refresh_token":"`+refresh+`","scope":"files:read",
			"user":{"id":"0195a3f0-0000-7000-8000-000000000001","username":"mallory","roles":["user"]}}`)
	}))
	defer login.Close()
	gateway := runFunction(t, "gateway", append(gatewaySettings(gatewayKey(t), login.URL), "TRUSTED_HOPS=1")...)
	refreshed := make(chan int, 100)
	console := "https://console.example.test:" + startTLS(t, gateway, func(r *http.Response) {
		if r.Request.URL.Path == "/session/refresh" { // The console asks for its session when it is opened.
			refreshed <- r.StatusCode
		}
	}) + "/"
	neighbor := portOf(t, httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The console uses the last name, because its URL has a port. A cookie for the whole domain is invalid with
		// this name.
		port := strings.TrimSuffix(console[strings.LastIndexByte(console, ':')+1:], "/")
		for _, name := range []string{"strongroom_session", "__Secure-strongroom_session", "strongroom_session_" + port, "__Host-strongroom_session_" + port} {
			for _, path := range []string{"/", "/session"} {
				http.SetCookie(w, &http.Cookie{Name: name, Value: refresh, Domain: "example.test", Path: path, Secure: true})
			}
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><script>location=%q</script>`, console)
	})))
	if status := browse(t, "https://neighbor.example.test:"+neighbor+"/", refreshed); status == http.StatusOK {
		t.Error("got status 200 and mallory's session, want no session")
	}
}
