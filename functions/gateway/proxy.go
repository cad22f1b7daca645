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
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// dialTimeout limits the time for connecting to a function. The start of a function instance does not count toward
	// this time, because Knative accepts the connection even if no instance is running.
	dialTimeout = 5 * time.Second
	// idleTimeout is how long the gateway keeps an idle connection to a function. It is shorter than the function's
	// own idle timeout of two minutes, so that the gateway closes the connection first. A request that the gateway
	// sends while the function closes the connection is lost, and most requests cannot be repeated.
	idleTimeout = 90 * time.Second
	// bufferSize is the size, in bytes, of each buffer with which the gateway copies response bodies.
	bufferSize = 32 << 10
)

// newTransport returns the HTTP transport for requests to the functions.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         dial,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     idleTimeout,
		// For a request with Expect: 100-continue, the transport sends the body only after the function's 100
		// (Continue) response, so that the client does not send a body that the function rejects. When
		// ExpectContinueTimeout expires, the transport sends the body without this response. The timeout is long,
		// because route.patience already limits the wait.
		ExpectContinueTimeout: time.Hour,
		DisableCompression:    true,
	}
}

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

// newProxy returns a proxy that forwards requests to the route's function and streams request and response bodies. The
// proxy calls finish to add the gateway's common headers to each response.
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
			introduce(p.In.Context(), p.Out.Header, to, trust)
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
				// A function sends a 502, 503 or 504 only as a problem document. This response is not a problem
				// document, so it must come from a proxy in front of the function.
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

// keepFromRetrying prevents http.Transport from sending a request twice, unless the method is safe (RFC 9110, Section
// 9.2.1).
//
// If a connection breaks, http.Transport repeats a request that has an Idempotency-Key header and no body. A function
// that ignores this header would then perform the action twice. keepFromRetrying changes the header name to lower case,
// because http.Transport recognizes only the canonical spelling. The spelling makes no difference to the function.
func keepFromRetrying(r *http.Request) {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, r.Method) {
		return
	}
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

// explain returns the error to send to the client as a problem document after a request to the named function failed
// with err. The gateway never repeats the request, because the function might already have performed the action.
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
