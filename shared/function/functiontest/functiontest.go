// Package functiontest serves a function's handler over in-memory connections. In a testing/synctest bubble, the
// connections' deadlines use the fake clock, so tests do not have to wait for timeouts.
package functiontest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Serve serves handler until the test ends, and returns a function for http.Transport.DialContext. Call Serve in a
// testing/synctest bubble, so that the server's timeouts pass in fake time.
func Serve(t *testing.T, handler http.Handler) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	listener := &listener{connections: make(chan net.Conn), closed: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: &protocols, ReadTimeout: time.Hour, WriteTimeout: 2 * time.Hour}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close() // listener.Close returns no error
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.dial
}

// listener is a net.Listener that connects clients to a server through net.Pipe, because the deadlines of a net.Pipe
// connection use the fake clock of a testing/synctest bubble.
type listener struct {
	connections chan net.Conn
	close       sync.Once
	closed      chan struct{}
}

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.connections <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connections:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{} }

// SlowBodies sends each request, such as "POST /login\nContent-Type: application/json", with a slow, endless body. It
// checks that the server sends a problem document with the expected status, and then closes the connection.
func SlowBodies(t *testing.T, handler func(t *testing.T) http.Handler, want int, requests ...string) {
	for _, request := range requests {
		for framing, piece := range map[string]string{"Content-Length: 1000": " ", "Transfer-Encoding: chunked": "1\r\n \r\n"} {
			name, _, _ := strings.Cut(request, "\n")
			t.Run(name+" "+framing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { slowBody(t, handler(t), want, request+"\n"+framing, piece) })
			})
		}
	}
}

// slowBody sends one request for SlowBodies and checks the response. The head parameter contains the request's method,
// path and header lines. The request body is endless: slowBody sends one copy of the piece parameter per second.
func slowBody(t *testing.T, handler http.Handler, want int, head, piece string) {
	client, err := Serve(t, handler)(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	line, headers, _ := strings.Cut(head, "\n")
	if _, err := fmt.Fprintf(client, "%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", line, strings.ReplaceAll(headers, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	defer func() {
		client.Close()
		<-sent // all goroutines of a bubble must end before the bubble ends
	}()
	go func() {
		defer close(sent)
		for {
			if _, err := io.WriteString(client, piece); err != nil {
				return // the connection is closed
			}
			time.Sleep(time.Second)
		}
	}()
	responses := bufio.NewReader(client)
	response, err := http.ReadResponse(responses, nil)
	if err != nil {
		t.Fatalf("read the response: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want || response.Header.Get("Content-Type") != "application/problem+json" || !response.Close {
		t.Errorf("got status %s, body %q, connection closed %t and error %v, want a problem document with status %d and a closed connection",
			response.Status, body, response.Close, err, want)
	}
	if _, err := responses.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("read after the response: got error %v, want EOF", err)
	}
}
