//go:build audit

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// browserTime bounds a visit in Chromium.
const browserTime = 100 * time.Second

// browse opens a URL of example.test, which is on loopback, in Chromium until the visit leads to a first event. It returns
// the event.
func browse[E any](t *testing.T, url string, events <-chan E) (first E) {
	t.Helper()
	chromium := ""
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && chromium == "" {
			chromium = path
		}
	}
	if chromium == "" {
		t.Skip("SKIPPED: chromium is not installed")
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

// TestAuditNeighborSetsSession checks security S11: a site on the same domain cannot set the session that a visitor of the console uses.
func TestAuditNeighborSetsSession(t *testing.T) {
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
		for _, prefix := range []string{"", "__Secure-"} { // Browsers let no neighbor set a cookie with the prefix __Host-.
			http.SetCookie(w, &http.Cookie{Name: prefix + "strongroom_session", Value: refresh, Domain: "example.test", Path: "/session", Secure: true})
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><script>location=%q</script>`, console)
	})))
	if status := browse(t, "https://neighbor.example.test:"+neighbor+"/", refreshed); status == http.StatusOK {
		t.Error("got status 200 and mallory's session, want no session")
	}
}

// TestAuditUploadedScriptRuns checks security S12: the console's policy does not let an uploaded file run as a script, also if somebody can add markup to the page.
func TestAuditUploadedScriptRuns(t *testing.T) {
	const script = "new Image().src = '/icon.svg?uploaded'"
	u := startUpload(t, 0, "")
	s, err := content.Open(u.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "0190-ada", Name: "x.js", ContentType: "text/javascript"}}, strings.NewReader(script), eventOf)
	if err != nil {
		t.Fatal(err)
	}
	files := u.startFiles(t)
	var link struct{ URL string }
	status, body, err := u.call(t, http.MethodPost, files+"/files/"+f.ID+"/link")
	if err != nil || status != http.StatusCreated || json.Unmarshal(body, &link) != nil {
		t.Fatalf("create a link: got status %d, body %s and error %v", status, body, err)
	}
	// The page replaces the console and keeps its headers. When all scripts have run or were refused, it opens the icon.
	page := `<!doctype html><meta http-equiv="refresh" content="0; url=/icon.svg?end"><script>new Image().src = '/icon.svg?inline'</script>
		<script src="` + html.EscapeString(link.URL) + `"></script>`
	gateway := runFunction(t, "gateway", append(gatewaySettings(gatewayKey(t), files), "TRUSTED_HOPS=1")...)
	icons := make(chan string, 100)
	port := startTLS(t, gateway, func(r *http.Response) {
		switch r.Request.URL.Path {
		case "/":
			r.Body = io.NopCloser(strings.NewReader(page))
			r.ContentLength = int64(len(page))
			r.Header.Set("Content-Length", strconv.Itoa(len(page)))
			r.Header.Del("Content-Encoding")
		case "/icon.svg":
			icons <- r.Request.URL.RawQuery
		}
	})
	switch got := browse(t, "https://console.example.test:"+port+"/", icons); got {
	case "end":
	case "uploaded":
		t.Error("got the uploaded file run as a script, want the browser to refuse it")
	default:
		t.Fatalf("got the icon with query %q first, want no inline script to run", got)
	}
}
