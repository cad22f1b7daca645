package function

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// refusal responds to every request with an error, without reading the body.
var refusal = problem.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return problem.BadRequest.With("no") })

// refuse starts a server with the handler refusal.
func refuse(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(Wrap(refusal, time.Minute))
	t.Cleanup(server.Close)
	return server
}

// begin connects to server and sends the headers of a request.
func begin(t *testing.T, server *httptest.Server, headers string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the connection might already be closed
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", headers); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// wantRefusal reads a response and checks that it is a 400. wantClose is true if the response must end the connection.
func wantRefusal(t *testing.T, answers *bufio.Reader, wantClose bool) {
	t.Helper()
	res, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatalf("read the response: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusBadRequest || res.Close != wantClose || len(body) == 0 {
		t.Errorf("got %s, close %t, body %q and error %v, want 400 with a body and close %t",
			res.Status, res.Close, body, err, wantClose)
	}
}

// A client gets the response even if the client reads only after it has sent its whole request body. This also works
// if a function is a proxy.
func TestAnswerBeforeTheBodyIsNotLost(t *testing.T) {
	direct := refuse(t)
	target, err := url.Parse(direct.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxied := httptest.NewServer(Wrap(httputil.NewSingleHostReverseProxy(target), time.Minute))
	defer proxied.Close()
	for name, server := range map[string]*httptest.Server{"direct": direct, "proxied": proxied} {
		t.Run(name, func(t *testing.T) {
			const sent = 64 << 20 // more bytes than fit into the buffers between client and server
			conn, answers := begin(t, server, fmt.Sprintf("Content-Length: %d", sent))
			block := bytes.Repeat([]byte("x"), 1<<20)
			for range sent / len(block) {
				if _, err := conn.Write(block); err != nil {
					t.Fatalf("send the body: %v", err)
				}
			}
			wantRefusal(t, answers, true)
		})
	}
}

// A client that announces a body but never sends the body gets the response. After that, the function closes the
// connection.
func TestAnswerDoesNotWaitForTheBody(t *testing.T) {
	_, answers := begin(t, refuse(t), "Content-Length: 5")
	wantRefusal(t, answers, true)
	if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("read after the response: got error %v, want %v", err, io.EOF)
	}
}

// The connection stays open after a request without a body, and after a request whose body the handler has read.
func TestAnswerKeepsTheConnection(t *testing.T) {
	server := httptest.NewServer(Wrap(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		_, err := request.ReadBody(w, r, 100)
		return errors.Join(err, problem.BadRequest.With("no"))
	}), time.Minute))
	defer server.Close()
	conn, answers := begin(t, server, "Content-Length: 0")
	wantRefusal(t, answers, false)
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, answers, false)
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, answers, false)
}
