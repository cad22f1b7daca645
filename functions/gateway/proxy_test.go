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

// listen starts a fake function and returns its base URL. It calls serve with each connection.
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

// head reads the request line and the headers of a request, and returns its request ID.
func head(c net.Conn) (id string) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return ""
	}
	return r.Header.Get("X-Request-Id")
}

func TestFunctionsThatFail(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
	for name, serve := range map[string]func(net.Conn){
		"closes immediately":    func(net.Conn) {},
		"closes after the head": func(c net.Conn) { head(c) },
		"resets": func(c net.Conn) {
			head(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		},
		"does not use HTTP": func(c net.Conn) { head(c); _, _ = io.WriteString(c, "220 mail\r\n") },
		"does not respond":  func(c net.Conn) { head(c); _, _ = io.Copy(io.Discard, c) },
		"is unknown to the ingress": func(c net.Conn) {
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
	t.Run("cannot be reached", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) { f.targets["files"] = parse(t, "http://127.0.0.1:1") })
		f.ask(t, http.MethodGet, "/files").wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	})
	t.Run("closes in the middle of the response", func(t *testing.T) {
		f := newFixture(t, func(f *fixture) {
			f.targets["files"] = parse(t, listen(t, func(c net.Conn) { head(c); _, _ = io.WriteString(c, ok+"12345") }))
		})
		response, err := httpClient.Do(f.request(t, http.MethodGet, "/files", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err == nil || string(body) != "12345" {
			t.Errorf("got %q and error %v, want the first five bytes and an error", body, err)
		}
	})
}

// The gateway forwards a problem document from a function unchanged.
func TestProblemsPass(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["files /files"] = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			return problem.Unavailable.With("MongoDB is unavailable").Header("Retry-After", "11")
		}).ServeHTTP
	})
	if got := f.ask(t, http.MethodGet, "/files"); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "11" || !strings.Contains(got.body, "MongoDB") {
		t.Errorf("got %d %q, want the problem document of the function", got.status, got.body)
	}
}

// A function that reads the request body slowly makes progress. A function that stops reading it does not. The time
// in which the client sends nothing does not count.
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
		t.Errorf("slow client: got %d %s, want 200", got.status, got.body)
	}
	got := do(t, f.request(t, http.MethodPost, "/accounts", io.LimitReader(rand.Reader, 1<<40)))
	got.wantProblem(t, http.StatusServiceUnavailable, "unavailable")
	if !strings.Contains(got.body, "has not responded yet") {
		t.Errorf("got %s, want the problem of a function without progress", got.body)
	}
}

// After a response has begun, patience does not bound it, even if the request body has not ended.
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
		t.Errorf("got %d %q, want the body late", got.status, got.body)
	}
	reader, writer := io.Pipe()
	response, err := httpClient.Do(f.request(t, http.MethodPost, "/upload", reader))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range 3 { // send each line after the previous line has returned
		fmt.Fprintln(writer, i)
		if got, err := lines.ReadString('\n'); err != nil || got != fmt.Sprintln(i) {
			t.Fatalf("got line %q and error %v, want %d", got, err, i)
		}
		time.Sleep(2 * patience)
	}
	_ = writer.Close()
}

// echo sends each line of the request body back immediately.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	_ = control.Flush()
	for scanner := bufio.NewScanner(r.Body); scanner.Scan(); {
		fmt.Fprintln(w, scanner.Text())
		_ = control.Flush()
	}
}

// unread is a request body that fails the test if it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read although the function had refused it")
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
		t.Errorf("got %d %q, want 200 with the body hello", got.status, got.body)
	}
	got.wantFinished(t) // ReverseProxy clears headers that are set before it forwards a 100
}

// A client that does not wait for 100 (Continue) gets the function's refusal while it sends the body. It gets the
// refusal no matter how the function then ends its connection.
func TestEarlyRefusal(t *testing.T) {
	const document = `{"type":"urn:strongroom:problem:too-large","title":"Too large","status":413,"instance":"%s"}`
	refuse := func(c net.Conn) {
		body := fmt.Sprintf(document, head(c))
		_, _ = fmt.Fprintf(c, "HTTP/1.1 413 Request Entity Too Large\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	for name, serve := range map[string]func(net.Conn){
		"and waits": func(c net.Conn) { refuse(c); time.Sleep(time.Second) },
		"and closes": func(c net.Conn) {
			refuse(c)
			_ = c.(*net.TCPConn).CloseWrite()
			time.Sleep(100 * time.Millisecond)
		},
		"and resets": func(c net.Conn) {
			refuse(c) // closing with unread bytes resets the connection
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(f *fixture) { f.targets["upload"] = parse(t, listen(t, serve)) })
			for range 20 {
				got := do(t, f.request(t, http.MethodPost, "/upload", io.LimitReader(rand.Reader, 1<<40)))
				if got.status != http.StatusRequestEntityTooLarge || got.body != fmt.Sprintf(document, got.header.Get("X-Request-Id")) {
					t.Fatalf("got %d %q, want the 413", got.status, got.body)
				}
			}
		})
	}
}

// If a client disconnects, the function's request ends immediately, while the client sends the body as well as while
// it waits for the response.
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
		"in the body":   "POST /upload HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\nabc",
		"in a chunk":    "POST /upload HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"while waiting": "GET /files HTTP/1.1\r\nHost: gateway\r\n\r\n",
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
				t.Errorf("%s: got a complete request, want an error in the function", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the function's request did not end", name)
		}
		f.last(t)
	}
}

// A client that ends its body too early but still reads gets a 400.
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

// If a reused connection breaks after a request, the function may already have acted on the request. So the gateway
// repeats only requests with a safe method.
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
					t.Errorf("got Idempotency-Key %q, want key", got)
				}
				if requests.Add(1); first {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
				return // without a response if the connection was used before
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
		{http.MethodGet, "", 2, http.StatusOK}, // shows that this test detects a repeated request
	} {
		requests.Store(0)
		if got := f.ask(t, http.MethodGet, "/accounts/warm"); got.status != http.StatusOK {
			t.Fatalf("got status %d, want 200", got.status)
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
