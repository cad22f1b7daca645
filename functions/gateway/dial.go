package main

import (
	"context"
	"errors"
	"net"
	"time"
)

// resetGrace is the time for an answer to be read that came before its connection was reset.
const resetGrace = 100 * time.Millisecond

// dial connects to a function.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	connection, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return outbound{connection}, nil
}

// outbound is a connection to a function, which may answer while the request is still being sent, such as with a 413 to
// an upload, and then close it. http.Transport drops the answer if it has not read it when it fails to send the rest: so
// the failure has to wait until the answer has been looked for.
type outbound struct{ net.Conn }

// Write implements io.Writer.
func (c outbound) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		time.Sleep(resetGrace)
	}
	return n, err
}
