package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	serving "github.com/strongroom-dev/strongroom/shared/function"
)

// TestMain runs the tests or, if PLAY is set, acts as the function that a test has started from this binary.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		os.Exit(m.Run())
	case "function":
		playFunction()
	case "failure":
		fmt.Fprintln(os.Stderr, `{"time":"2026-01-02T15:04:05Z","level":"ERROR","msg":"stopped","service":"f","error":"no database"}`)
		syscall.Exit(1) // unlike os.Exit, prints no warning about GOCOVERDIR with -cover
	}
}

// playFunction runs a test function, which responds with a description of the request that it has received.
func playFunction() {
	var running, most atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{
			Name: os.Getenv("K_SERVICE"), Pid: os.Getpid(), Path: r.URL.RequestURI(), Host: r.Host, Header: r.Header, Environment: os.Environ(),
		})
	})
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) {
		fmt.Println("boom")
		syscall.Exit(3) // unlike os.Exit, prints no warning about GOCOVERDIR with -cover
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/crowd", func(w http.ResponseWriter, _ *http.Request) {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		time.Sleep(20 * time.Millisecond) // gives other requests the time to arrive
		fmt.Fprint(w, most.Load())
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "0") // so that the response is complete before the request body has been sent
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		for scanner := bufio.NewScanner(r.Body); scanner.Scan(); {
			fmt.Fprintln(w, scanner.Text())
			_ = control.Flush()
		}
	})
	err := http.ListenAndServe(net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), serving.Linger(mux))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// seen is the response of the test function.
type seen struct {
	Name        string
	Pid         int
	Path, Host  string
	Header      http.Header
	Environment []string
}

// screen collects the output of the runner.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// play returns a function called name and the output of the runner. The process of the function is this test binary
// with PLAY set to role. change, if it is not nil, changes the manifest of the function.
func play(t *testing.T, name, role string, change func(*service)) (*function, *screen) {
	t.Helper()
	var s service
	s.Metadata.Name = name
	if change != nil {
		change(&s)
	}
	shows := &screen{}
	f, err := newFunction(s, os.Args[0], []string{"PLAY=" + role}, 0, &output{w: shows})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f, shows
}

// front serves handler on a loopback address and returns the URL.
func front(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// get sends a GET request and decodes the response of the test function.
func get(t *testing.T, url string) seen {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var s seen
	if err := json.Unmarshal(body, &s); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: got %s %s, want 200 and the response of the test function", url, response.Status, body)
	}
	return s
}

// wantProblem checks that a response is a problem document with this status, whose detail contains the text detail.
func wantProblem(t *testing.T, response *http.Response, status int, detail string) {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Type, Detail, Instance string }
	if err := json.Unmarshal(body, &document); err != nil {
		t.Fatalf("got %s %q, want a problem document", response.Status, body)
	}
	if response.StatusCode != status || response.Header.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(document.Detail, detail) {
		t.Errorf("got %s %s, want a problem document with status %d and %q", response.Status, body, status, detail)
	}
	if id := response.Header.Get("X-Request-Id"); id == "" || id != document.Instance {
		t.Errorf("got X-Request-Id %q and instance %q, want the same value", id, document.Instance)
	}
	if got := response.Header.Get("Retry-After"); (got != "") != (status == http.StatusServiceUnavailable) {
		t.Errorf("got Retry-After %q with status %d", got, status)
	}
}

// eventually waits until the condition is true. It fails the test if the condition is still false after 20 s.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("timed out waiting for the condition: %s", what)
}
