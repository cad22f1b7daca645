package main

import (
	"context"
	"errors"
	"net"
	"time"
)

// resetGrace is how long outbound.Write waits after an error, so that http.Transport has time to read a response that
// arrived before the connection was reset.
const resetGrace = 100 * time.Millisecond

// dial opens a connection to a function. It wraps the connection in an outbound, which delays write errors so that the
// function's response is not lost.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	connection, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return outbound{connection}, nil
}

// outbound is a connection to a function. If a write fails, Write waits for resetGrace before it returns the error.
//
// A function can respond before it has read the whole request, for example with a 413 (Content Too Large) to an upload,
// and then close the connection. http.Transport then fails to write the rest of the request. If Write returned the
// error immediately, http.Transport might not have read the response yet, and the response would be lost.
type outbound struct{ net.Conn }

// Write implements io.Writer.
func (c outbound) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		time.Sleep(resetGrace)
	}
	return n, err
}
