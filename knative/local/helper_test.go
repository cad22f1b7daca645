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
	"testing"
	"time"

	serving "github.com/strongroom-dev/strongroom/shared/function"
)

// TestMain makes the test binary play the functions that the tests run.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		os.Exit(m.Run())
	case "function":
		playFunction()
	case "failure":
		fmt.Fprintln(os.Stderr, `{"time":"2026-01-02T15:04:05Z","level":"ERROR","msg":"stopped","service":"f","error":"no database"}`)
		os.Exit(1)
	}
}

// playFunction is a small function that shows what reaches it.
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
		os.Exit(3)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/crowd", func(w http.ResponseWriter, _ *http.Request) {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		time.Sleep(20 * time.Millisecond) // gives others the time to come in, if they may
		fmt.Fprint(w, most.Load())
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "0") // so the answer is complete before the request is
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

// seen is what the small function answers.
type seen struct {
	Name        string
	Pid         int
	Path, Host  string
	Header      http.Header
	Environment []string
}

// screen collects what the runner shows.
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

// play returns a function called name that this test binary plays as role, and what the runner shows of it.
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

// front serves handler on a loopback address.
func front(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// get asks for a URL and decodes what the small function has seen.
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
		t.Fatalf("GET %s: got %s %s, want 200 and what the function has seen", url, response.Status, body)
	}
	return s
}

// wantProblem checks that an answer is a problem document of the status with the text in its detail.
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
		t.Errorf("got X-Request-Id %q and instance %q, want the same", id, document.Instance)
	}
	if got := response.Header.Get("Retry-After"); (got != "") != (status == http.StatusServiceUnavailable) {
		t.Errorf("got Retry-After %q with status %d", got, status)
	}
}

// eventually waits, for a bounded time, until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("did not come true: %s", what)
}
