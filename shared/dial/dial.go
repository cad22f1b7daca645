// Package dial opens connections from a pod whose network is not complete yet.
package dial

import (
	"context"
	"net"
	"time"
)

// StartWait is how long after the start of a pod a failed attempt to connect is repeated. The network plugin of a cluster
// can apply network policies to a pod after its start
// (https://kubernetes.io/docs/concepts/services-networking/network-policies/#pod-lifecycle).
const StartWait = 5 * time.Second

// pause is the time between two attempts.
const pause = 100 * time.Millisecond

// Until returns a function that opens a connection, as net.Dialer does. Each attempt takes at most timeout. Until end, the
// function repeats failed attempts until the context is done.
func Until(end time.Time, timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		for {
			conn, err := dialer.DialContext(ctx, network, address)
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
}
