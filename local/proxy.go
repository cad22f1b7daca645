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
		// If a request has the header Expect: 100-continue, wait up to the full request timeout for the function's
		// 100 (Continue) response, so that the transport never sends a body that the function rejects.
		ExpectContinueTimeout: timeout,
		DisableCompression:    true,
	}
}

// newProxy returns a proxy that forwards requests to the process at address. It does not buffer request or response
// bodies. name is the function's name.
func newProxy(name, address string, transport *http.Transport) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      quietLog(), // an incomplete response usually means only that the client has disconnected
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", address
			p.Out.URL.RawQuery = p.In.URL.RawQuery // keep invalid parameters, as queue-proxy does; ReverseProxy removes them
			// Keep the incoming X-Forwarded-For header only if another function sent the request, because a client
			// can put any address into the header.
			if isInside(p.In) {
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			}
			p.SetXForwarded() // appends the caller's address
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[name]; ok && isInside(p.In) {
					p.Out.Header[name] = values
				}
			}
			// Remove the X-Auth-* headers, because a client could use them to impersonate any user. Only a proxy that
			// has authenticated the user is allowed to set them.
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

// quietLog returns a logger for net/http. The logger discards all messages, because it logs at the debug level, which
// is disabled.
func quietLog() *log.Logger { return slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug) }

// fail responds with the problem document for err. It also sets a request ID, as the functions do in their responses.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("X-Request-Id", uuid.Must(uuid.NewV7()).String())
	problem.Write(w, r, err)
}
