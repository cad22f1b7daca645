package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// newTransport returns an HTTP transport for requests to a function's process. timeout is the function's request
// timeout.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     90 * time.Second,
		// If a request has the header Expect: 100-continue, the transport waits this long for the function's 100
		// (Continue) response before it sends the body. The wait is as long as the request timeout, so that a body that
		// the function rejects is never sent.
		ExpectContinueTimeout: timeout,
		DisableCompression:    true,
	}
}

// newProxy returns a proxy that forwards requests to the process at address. It does not buffer request and response
// bodies. name is the name of the function.
func newProxy(name, address string, transport *http.Transport) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      quietLog(), // an incomplete response usually means only that the client has disconnected
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", address
			p.Out.URL.RawQuery = p.In.URL.RawQuery // keep invalid parameters, as queue-proxy does; ReverseProxy removes them
			// SetXForwarded appends the caller's address to the X-Forwarded-For header in p.Out. Copy this header from
			// the incoming request only if another function sent the request, because a client can put any address into
			// the header.
			if isInside(p.In) {
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			}
			p.SetXForwarded()
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[name]; ok && isInside(p.In) {
					p.Out.Header[name] = values
				}
			}
			// A proxy that uses forward authentication describes the signed-in user in the X-Auth-* headers. Remove
			// these headers, because a client could otherwise impersonate any user.
			maps.DeleteFunc(p.Out.Header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Auth-") })
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			detail := name + " closed the connection without a response"
			if errors.Is(err, context.DeadlineExceeded) {
				detail = name + " did not respond within its timeoutSeconds"
			}
			fail(w, r, problem.Unavailable.Because(err, detail))
		},
	}
}

// quietLog returns a logger that discards the messages of net/http: it logs them at the debug level, which is disabled.
func quietLog() *log.Logger { return slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug) }

// fail responds with the problem document for err. It also generates the request ID, because this response does not
// come from a function, which would have set the ID.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("X-Request-Id", uuid.Must(uuid.NewV7()).String())
	problem.Write(w, r, err)
}
