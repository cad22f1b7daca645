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

// drainTimeout bounds the wait for requests that run when the system is stopped.
const drainTimeout = 10 * time.Second

// server is a listener that answers 503 until it has a handler.
type server struct {
	http    *http.Server
	address string
	handler atomic.Pointer[http.Handler]
	failed  chan error
}

// serve listens at address.
func serve(address string) (*server, error) {
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("ADDR: another program listens on %s: stop it, or take another address, such as ADDR=127.0.0.1:9000", address)
	}
	if err != nil {
		return nil, fmt.Errorf("ADDR: %w", err)
	}
	s := &server{address: listener.Addr().String(), failed: make(chan error, 1)}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           serving.Linger(s), // as the functions' own do: their answers come through before the body has
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

// handle makes h answer from now on.
func (s *server) handle(h http.Handler) { s.handler.Store(&h) }

// ServeHTTP passes the request to the handler, if there is one yet.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	fail(w, r, problem.Unavailable.With("the system is starting"))
}

func (s *server) url() string { return "http://" + s.address }

// drain stops listening and waits, for a while, until the running requests have been answered.
func (s *server) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.close()
	}
}

// close cuts all connections.
func (s *server) close() { _ = s.http.Close() } // of listeners that have nothing to lose
