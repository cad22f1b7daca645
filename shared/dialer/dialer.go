// Package dialer opens connections from a pod whose network can still be incomplete.
package dialer

import (
	"context"
	"net"
	"time"
)

const (
	// startWait is how long after the start of the process a failed attempt to connect is repeated. The network plugin of a
	// cluster can apply network policies to a pod after its start
	// (https://kubernetes.io/docs/concepts/services-networking/network-policies/#pod-lifecycle).
	startWait = 5 * time.Second
	// pause is the time between two attempts.
	pause = 100 * time.Millisecond
)

// started is about the time when the process has started.
var started = time.Now()

// DialContext opens a connection, as net.Dialer does. During the first seconds of the process, it repeats a failed attempt
// until ctx is done, so ctx must have a deadline.
func DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return dialUntil(ctx, started.Add(startWait), network, address)
}

// dialUntil opens a connection. It repeats a failed attempt until end, or until ctx is done.
func dialUntil(ctx context.Context, end time.Time, network, address string) (net.Conn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil || !time.Now().Before(end) {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}
