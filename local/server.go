package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	serving "github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// drainTimeout is how long a server waits for in-flight requests to finish when the system stops.
const drainTimeout = 10 * time.Second

// server is an HTTP server that responds with 503 until its handler is set.
type server struct {
	http    *http.Server
	address string
	handler atomic.Pointer[http.Handler]
	failed  chan error
}

// serve starts a server that listens on address.
func serve(address string) (*server, error) {
	listener, err := net.Listen("tcp", address)
	// Only the address in ADDR can already be in use, because all other servers listen on free ports.
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("ADDR: another program is listening on %s: stop that program, or set ADDR to a different address, such as 127.0.0.1:9000", address)
	}
	if err != nil {
		return nil, fmt.Errorf("ADDR: %w", err)
	}
	s := &server{address: listener.Addr().String(), failed: make(chan error, 1)}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           serving.Linger(s), // so that a response sent before the request body ends is not lost
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          quietLog(),
	}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
	return s, nil
}

// handle sets the handler for all later requests.
func (s *server) handle(h http.Handler) { s.handler.Store(&h) }

// ServeHTTP passes the request to the handler. It responds with 503 while no handler is set.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	fail(w, r, problem.Unavailable.With("the system is starting"))
}

func (s *server) url() string { return "http://" + s.address }

// drain stops accepting requests and waits for in-flight requests to finish. If they do not finish within drainTimeout,
// drain closes all connections.
func (s *server) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.close()
	}
}

// close closes the listener and all connections immediately.
func (s *server) close() { _ = s.http.Close() } // ignore the error, because the listener is no longer needed
