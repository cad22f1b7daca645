package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"time"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/dialer"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// dialTimeout limits how long the gateway waits for a connection to a function. It can be short, because Knative
	// accepts connections even if no function instance is running.
	dialTimeout = 5 * time.Second
	// idleTimeout is shorter than the functions' idle timeout of two minutes. Otherwise, the gateway might send a
	// request on a connection that the function is closing, and the request would be lost.
	idleTimeout = 90 * time.Second
	// bufferSize is the size, in bytes, of each buffer for copying response bodies.
	bufferSize = 32 << 10
)

// newTransport returns the HTTP transport for requests to the functions.
func newTransport() *http.Transport {
	return &http.Transport{
		// Wrap each connection in an outbound, which delays write errors so that the function's response is not lost.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			connection, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return outbound{connection}, nil
		},
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     idleTimeout,
		// For a request with Expect: 100-continue, wait for the function's 100 (Continue) response, so that the
		// client does not send a body that the function rejects. This timeout is never reached, because the limit in
		// route.patience is shorter.
		ExpectContinueTimeout: time.Hour,
		DisableCompression:    true,
	}
}

// resetGrace is how long outbound.Write waits after an error, so that http.Transport has time to read a response that
// arrived before the connection was reset.
const resetGrace = 100 * time.Millisecond

// outbound is a connection to a function. If a write fails, Write waits for resetGrace before it returns the error.
type outbound struct{ net.Conn }

// Write implements io.Writer.
func (c outbound) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		// The function might have responded and closed the connection before it read the whole request. If Write
		// returned immediately, the response could be lost.
		time.Sleep(resetGrace)
	}
	return n, err
}

// newProxy returns a proxy that forwards requests to the route's function. It streams all bodies, so that the gateway
// does not hold whole files in memory.
func newProxy(to route, transport http.RoundTripper, buffers httputil.BufferPool, trust client.Trust, finish func(context.Context, http.Header)) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     patient{transport, to.patience},
		FlushInterval: -1,
		BufferPool:    buffers,
		// Log at the debug level, because the proxy logs every response that ends early, even if the client has simply
		// disconnected.
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to.target)
			// Forward the original query string, because the function must reject malformed parameters, and
			// ReverseProxy would remove them.
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			introduce(p.In.Context(), p.Out.Header, trust)
			if to.password {
				addDevice(p.In, p.Out.Header)
			}
			// Remove Cookie, because the session cookie is only for the gateway. Remove Upgrade and Connection, because
			// no function supports a switch to another protocol.
			for _, name := range []string{"Cookie", "Upgrade", "Connection"} {
				p.Out.Header.Del(name)
			}
			keepFromRetrying(p.Out)
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.StatusCode >= http.StatusBadGateway && answer.StatusCode <= http.StatusGatewayTimeout &&
				answer.Header.Get("Content-Type") != "application/problem+json" {
				// A function sends every 502, 503 or 504 as a problem document. This response is not a problem
				// document, so it must be from a proxy in front of the function.
				return errNotThere
			}
			finish(answer.Request.Context(), answer.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			finish(r.Context(), w.Header())
			problem.Write(w, r, explain(to.function, err))
		},
	}
}

// keepFromRetrying prevents http.Transport from repeating an unsafe request (RFC 9110, Section 9.2.1) that has an
// Idempotency-Key header. A function that ignores this header would perform the action twice.
func keepFromRetrying(r *http.Request) {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, r.Method) {
		return
	}
	// If a connection breaks, http.Transport repeats a request that has one of these headers and no body. Write
	// the header names in lower case, because http.Transport does not recognize this form, but the functions do.
	for canonical, other := range map[string]string{"Idempotency-Key": "idempotency-key", "X-Idempotency-Key": "x-idempotency-key"} {
		if values, ok := r.Header[canonical]; ok {
			delete(r.Header, canonical)
			r.Header[other] = values
		}
	}
}

var (
	errAsleep   = errors.New("the function made no progress within the time limit")
	errNotThere = errors.New("the response came from a proxy in front of the function, not from the function")
	errBody     = errors.New("the client's request body is incomplete")
)

// explain returns the error that the client receives as a problem document if a request to the named function fails
// with err.
func explain(function string, err error) error {
	switch {
	case errors.Is(err, errBody):
		return problem.BadRequest.Because(err, "the request body is incomplete")
	case errors.Is(err, errAsleep):
		return problem.Unavailable.Because(err, "the "+function+" function has not responded yet: try again in a moment")
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Unavailable.Because(err, "the "+function+" function took too long to respond")
	case errors.Is(err, errNotThere):
		return problem.Unavailable.Because(err, "the "+function+" function cannot be reached: try again later")
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return problem.Unavailable.Because(err, "the "+function+" function cannot be reached: try again later")
	}
	return problem.Unavailable.Because(err, "the "+function+" function did not send a complete response")
}
