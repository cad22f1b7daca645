package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// listen plays a function at the level of its connections: serve gets each of them, and may do as it likes.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				serve(connection)
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// head reads the head of a request.
func head(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }

func TestFunctionsThatFail(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
	for name, serve := range map[string]func(net.Conn){
		"closes at once":        func(net.Conn) {},
		"closes after the head": head,
		"resets": func(c net.Conn) {
			head(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		},
		"speaks no HTTP": func(c net.Conn) { head(c); _, _ = io.WriteString(c, "220 mail\r\n") },
		"gives no sign":  func(c net.Conn) { head(c); _, _ = io.Copy(io.Discard, c) },
		"sits behind an ingress without it": func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 19\r\nContent-Type: text/plain\r\n\r\nno healthy upstream")
		},
		"was not started in time": func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 25\r\n\r\nactivator request timeout")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) {
				f.targets["files"] = parse(t, listen(t, serve))
				f.patience["files"] = 300 * time.Millisecond
			})
			for method, body := range map[string]io.Reader{http.MethodGet: nil, http.MethodPost: strings.NewReader("x")} {
				got := do(t, f.request(t, method, "/files", body, "Expect", "100-continue"))
				got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
				got.wantFinished(t)
			}
		})
	}
	t.Run("is not there", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.targets["files"] = parse(t, "http://127.0.0.1:1") })
		f.ask(t, http.MethodGet, "/files").wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	})
	t.Run("breaks off in the middle", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) {
			f.targets["files"] = parse(t, listen(t, func(c net.Conn) { head(c); _, _ = io.WriteString(c, ok+"12345") }))
		})
		response, err := client.Do(f.request(t, http.MethodGet, "/files", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err == nil || string(body) != "12345" {
			t.Errorf("got %q and %v, want what came of it, and an error", body, err)
		}
	})
}

// A problem of the function's own is passed on as it is.
func TestProblemsPass(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["files /files"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			return problem.Unavailable.With("MongoDB is away").Header("Retry-After", "11")
		}).ServeHTTP
	})
	if got := f.ask(t, http.MethodGet, "/files"); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "11" || !strings.Contains(got.body, "MongoDB") {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

// A function that takes its time with a body is alive, one that stops taking it is not; and how long the client takes
// counts for nothing.
func TestPatience(t *testing.T) {
	const patience = 400 * time.Millisecond
	f := newFixture(t, func(f *fixture) {
		f.patience["upload"] = patience
		f.answers["upload /upload"] = func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
		f.patience["accounts"] = patience
		f.targets["accounts"] = parse(t, listen(t, func(net.Conn) { <-t.Context().Done() })) // reads nothing
	})
	reader, writer := io.Pipe()
	go func() {
		for range 4 {
			_, _ = io.WriteString(writer, "x")
			time.Sleep(patience * 2 / 3)
		}
		time.Sleep(2 * patience)
		_ = writer.Close()
	}()
	if got := do(t, f.request(t, http.MethodPost, "/upload", reader)); got.status != http.StatusOK {
		t.Errorf("a slow client: %d %s", got.status, got.body)
	}
	got := do(t, f.request(t, http.MethodPost, "/accounts", io.LimitReader(rand.Reader, 1<<40)))
	got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	if !strings.Contains(got.body, "does not answer yet") {
		t.Errorf("got %s, want that it was given up", got.body)
	}
}

// An answer may take as long as it likes once it has begun, also while the body still comes.
func TestPatienceEndsWithTheAnswer(t *testing.T) {
	const patience = 200 * time.Millisecond
	f := newFixture(t, func(f *fixture) {
		f.patience["files"], f.patience["upload"] = patience, patience
		f.answers["files /files"] = func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(3 * patience)
			_, _ = io.WriteString(w, "late")
		}
		f.answers["upload /upload"] = echo
	})
	if got := f.ask(t, http.MethodGet, "/files"); got.body != "late" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	reader, writer := io.Pipe()
	response, err := client.Do(f.request(t, http.MethodPost, "/upload", reader))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range 3 { // each line is sent when the one before has come back
		fmt.Fprintln(writer, i)
		if got, err := lines.ReadString('\n'); err != nil || got != fmt.Sprintln(i) {
			t.Fatalf("got %q, %v", got, err)
		}
		time.Sleep(2 * patience)
	}
	_ = writer.Close()
}

// echo gives each line back when it has come.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	_ = control.Flush()
	for scanner := bufio.NewScanner(r.Body); scanner.Scan(); {
		fmt.Fprintln(w, scanner.Text())
		_ = control.Flush()
	}
}

// unread fails a test in which somebody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was sent although the function had refused it")
	return 0, io.EOF
}

func TestExpectContinue(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["upload /upload"] = func(w http.ResponseWriter, r *http.Request) {
			problem.Write(w, r, problem.TooLarge.With("the limit is 5 bytes"))
		}
		f.answers["upload /upload/tus"] = func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }
	})
	refused := f.request(t, http.MethodPost, "/upload", unread{t}, "Expect", "100-continue")
	refused.ContentLength = 1 << 30
	if got := do(t, refused); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", got.status)
	}
	got := do(t, f.request(t, http.MethodPost, "/upload/tus", strings.NewReader("hello"), "Expect", "100-continue"))
	if got.status != http.StatusOK || got.body != "hello" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	got.wantFinished(t) // a 100 takes the headers that are there before it
}

// A client that does not wait for 100 (Continue) gets the refusal while it sends, whatever the function does with its
// connection after it.
func TestEarlyRefusal(t *testing.T) {
	const document = `{"type":"urn:strongroom:problem:too-large","title":"Too large","status":413,"instance":"request-1"}`
	refusal := fmt.Sprintf("HTTP/1.1 413 Request Entity Too Large\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(document), document)
	for name, serve := range map[string]func(net.Conn){
		"and waits": func(c net.Conn) { head(c); _, _ = io.WriteString(c, refusal); time.Sleep(time.Second) },
		"and closes": func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, refusal)
			_ = c.(*net.TCPConn).CloseWrite()
			time.Sleep(100 * time.Millisecond)
		},
		"and resets": func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, refusal) // what is unread when it closes makes this a reset
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.targets["upload"] = parse(t, listen(t, serve)) })
			for range 20 {
				got := do(t, f.request(t, http.MethodPost, "/upload", io.LimitReader(rand.Reader, 1<<40), "X-Request-Id", "request-1"))
				if got.status != http.StatusRequestEntityTooLarge || got.body != document {
					t.Fatalf("got %d %q, want the 413", got.status, got.body)
				}
			}
		})
	}
}

// The function learns at once that a client has gone away, in the middle of its body as well as while it waits.
func TestClientThatGoesAway(t *testing.T) {
	ended := make(chan error, 1)
	f := newFixture(t, func(f *fixture) {
		f.answers["upload /upload"] = func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		}
		f.answers["files /files"] = func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			ended <- r.Context().Err()
		}
	})
	for name, start := range map[string]string{
		"while it sends": "POST /upload HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\nabc",
		"in a chunk":     "POST /upload HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"while it waits": "GET /files HTTP/1.1\r\nHost: gateway\r\n\r\n",
	} {
		connection, err := net.Dial("tcp", parse(t, f.url).Host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(connection, start); err != nil {
			t.Fatal(err)
		}
		for f.calls() == 0 {
			time.Sleep(time.Millisecond)
		}
		_ = connection.Close()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: the function took the request for complete", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the function does not notice", name)
		}
		f.last(t)
	}
}

// A client that stops in the middle of its body but still listens is told so.
func TestBodyThatBreaksOff(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["upload /upload"] = func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	})
	connection, err := net.Dial("tcp", parse(t, f.url).Host)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_, err = io.WriteString(connection, "POST /upload HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\nabc")
	if err := errors.Join(err, connection.(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s, want 400", response.Status)
	}
}

// A connection that was kept and breaks when the next request has gone out tells nothing of whether the function has
// acted on it: only what may be is sent again.
func TestNothingIsSentTwice(t *testing.T) {
	var requests atomic.Int32
	f := newFixture(t, func(f *fixture) {
		f.targets["accounts"] = parse(t, listen(t, func(c net.Conn) {
			in := bufio.NewReader(c)
			for first := true; ; first = false {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				if r.URL.Path == "/accounts/warm" {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					continue
				}
				if got := r.Header.Get("Idempotency-Key"); got != "key" {
					t.Errorf("the key is %q", got)
				}
				if requests.Add(1); first {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
				return // on a connection that was used before, without an answer
			}
		}))
	})
	for _, test := range []struct {
		method, body string
		want         int32
		status       int
	}{
		{http.MethodPost, "", 1, http.StatusServiceUnavailable},
		{http.MethodPost, "x", 1, http.StatusServiceUnavailable},
		{http.MethodPatch, "", 1, http.StatusServiceUnavailable},
		{http.MethodDelete, "", 1, http.StatusServiceUnavailable},
		{http.MethodGet, "", 2, http.StatusOK}, // so this test can see a request that is sent twice
	} {
		requests.Store(0)
		if got := f.ask(t, http.MethodGet, "/accounts/warm"); got.status != http.StatusOK {
			t.Fatalf("got %d", got.status)
		}
		var body io.Reader
		if test.body != "" {
			body = bytes.NewReader([]byte(test.body))
		}
		got := do(t, f.request(t, test.method, "/accounts/cold", body, "Idempotency-Key", "key", "X-Idempotency-Key", "key"))
		if got.status != test.status || requests.Load() != test.want {
			t.Errorf("%s %q: got %d after %d requests, want %d after %d", test.method, test.body, got.status, requests.Load(), test.status, test.want)
		}
	}
}
