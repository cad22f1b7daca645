package dialer

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestDialUntil proves that a failed attempt to connect is repeated until the end, and not after the end.
func TestDialUntil(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dialUntil(t.Context(), time.Now(), "tcp", address); err == nil {
		t.Error("after the end: got no error, want an error")
	}
	closed := make(chan error, 1)
	time.AfterFunc(2*pause, func() {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			closed <- err
			return
		}
		_, err = listener.Accept()
		closed <- errors.Join(err, listener.Close())
	})
	conn, err := dialUntil(t.Context(), time.Now().Add(time.Minute), "tcp", address)
	if err != nil {
		t.Fatalf("got error %v, want a connection after the server has started", err)
	}
	if err := errors.Join(conn.Close(), <-closed); err != nil {
		t.Error(err)
	}
}
