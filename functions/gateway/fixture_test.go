package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the gateway's responses against docs/openapi.yaml.
var api = contract.Of("gateway")

// testKey is the key that the gateway signs with in the tests.
const testKey = "the key of the gateway, 32 bytes"

// fixture is a gateway with fake functions behind it.
type fixture struct {
	url   string // URL of the gateway
	trust client.Trust

	mu       sync.Mutex
	seen     []*http.Request             // requests to the functions, without their bodies
	answers  map[string]http.HandlerFunc // responses by function and path, such as "login /login"
	patience map[string]time.Duration    // by function, if it differs from the value in newRoutes
	targets  map[string]*url.URL
}

// newFixture starts a gateway that trusts one proxy. change can modify the fixture before the start.
func newFixture(t *testing.T, change func(*fixture), origins ...string) *fixture {
	t.Helper()
	f := &fixture{
		trust:    client.Trust{Hops: 1, Key: []byte(testKey)},
		answers:  map[string]http.HandlerFunc{},
		patience: map[string]time.Duration{},
		targets:  map[string]*url.URL{},
	}
	for _, name := range []string{"login", "validate", "upload", "files", "accounts"} {
		server := httptest.NewServer(f.play(name))
		t.Cleanup(server.Close)
		f.targets[name] = parse(t, server.URL)
	}
	if change != nil {
		change(f)
	}
	routes := newRoutes(f.targets)
	for i := range routes {
		if patience, ok := f.patience[routes[i].function]; ok {
			routes[i].patience = patience
		}
	}
	wrapped := function.Wrap(newHandler(routes, f.trust, origins, problem.HandlerFunc(page)), time.Minute)
	handler, err := config{TrustSettings: client.TrustSettings{TrustedHops: f.trust.Hops}}.Identify(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api.Handler(t, handler))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// page is a fake of the console.
func page(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != "/" {
		return problem.NotFound.With("no such endpoint")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, err := io.WriteString(w, "<!doctype html>")
	return err
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// play returns a fake of the function with the given name. It records each request, and responds with the function's
// name unless f.answers has another response.
func (f *fixture) play(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		seen := r.Clone(r.Context())
		f.seen = append(f.seen, seen)
		answer := f.answers[name+" "+r.URL.Path]
		f.mu.Unlock()
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id")) // as function.Wrap does
		if answer != nil {
			answer(w, r)
			return
		}
		_, _ = io.WriteString(w, name)
	}
}

// last returns the last request to a function, and removes all recorded requests.
func (f *fixture) last(t *testing.T) *http.Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) == 0 {
		t.Fatal("got no call of a function, want one")
	}
	last := f.seen[len(f.seen)-1]
	f.seen = nil
	return last
}

// originOf returns the origin that a function finds in a request from the gateway.
func (f *fixture) originOf(r *http.Request) (origin request.Origin) {
	f.trust.Identify(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		origin = *request.OriginOf(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
	return origin
}

// calls returns the number of recorded requests.
func (f *fixture) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

// request returns a request to the gateway. header is a list of names and values: name, value, name, value ….
func (f *fixture) request(t *testing.T, method, path string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header[http.CanonicalHeaderKey(header[i])] = append(r.Header[http.CanonicalHeaderKey(header[i])], header[i+1])
	}
	return r
}

// answer is an HTTP response with its whole body.
type answer struct {
	status int
	header http.Header
	body   string
}

// httpClient follows no redirects and keeps no cookies.
var httpClient = &http.Client{
	Transport:     &http.Transport{ExpectContinueTimeout: time.Minute, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       30 * time.Second,
}

// do sends a request and reads the response.
func do(t *testing.T, r *http.Request) answer {
	t.Helper()
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// ask sends a request without a body and reads the response.
func (f *fixture) ask(t *testing.T, method, path string, header ...string) answer {
	t.Helper()
	return do(t, f.request(t, method, path, nil, header...))
}

// wantProblem checks that a response is the problem document with the given status and name.
func (a answer) wantProblem(t *testing.T, status int, name string) {
	t.Helper()
	var document struct {
		Type     string
		Status   int
		Instance string
	}
	err := json.Unmarshal([]byte(a.body), &document)
	if err != nil || a.status != status || document.Status != status || document.Type != "urn:strongroom:problem:"+name ||
		a.header.Get("Content-Type") != "application/problem+json" || document.Instance == "" || document.Instance != a.header.Get("X-Request-Id") {
		t.Errorf("got status %d, body %q and request ID %q, want problem document %d %s", a.status, a.body, a.header.Get("X-Request-Id"), status, name)
	}
	if status == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "" {
		t.Error("got a 503 without Retry-After")
	}
}

// wantFinished checks that each of the headers that every response has occurs once.
func (a answer) wantFinished(t *testing.T) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Security-Policy": "", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Request-Id": "",
	} {
		if values := a.header.Values(name); len(values) != 1 || values[0] == "" || want != "" && values[0] != want {
			t.Errorf("got %s %q, want one value %s", name, values, want)
		}
	}
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // every refused request would write a line
	os.Exit(api.Run(m))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
