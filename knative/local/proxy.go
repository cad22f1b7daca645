package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// newTransport returns the connections to one process. timeout is the function's.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     90 * time.Second,
		// A client that sends Expect: 100-continue waits for the function's word, however long that takes: a body that
		// the function refuses is then never sent.
		ExpectContinueTimeout: timeout,
		DisableCompression:    true,
	}
}

// newProxy passes requests on to the process of the function called name, and bodies in both directions as they come.
func newProxy(name, address string, transport *http.Transport) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      quietLog(), // of answers that end early, mostly because clients go away
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", address
			p.Out.URL.RawQuery = p.In.URL.RawQuery // ReverseProxy drops what it can't parse; queue-proxy doesn't
			// SetXForwarded adds the address of the caller to the addresses from another function. The addresses from a client
			// do not reach the function: a client could name any.
			if isInside(p.In) {
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			}
			p.SetXForwarded()
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[name]; ok && isInside(p.In) {
					p.Out.Header[name] = values
				}
			}
			for name := range p.Out.Header {
				// What a proxy tells a function of a caller that validate has let in: not for the caller to say.
				if strings.HasPrefix(name, "X-Auth-") {
					p.Out.Header.Del(name)
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			detail := name + " broke off"
			if errors.Is(err, context.DeadlineExceeded) {
				detail = name + " did not answer within its timeoutSeconds"
			}
			fail(w, r, problem.Unavailable.Because(err, detail))
		},
	}
}

// quietLog takes what net/http logs on its own account, which nobody needs.
func quietLog() *log.Logger { return slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug) }

// fail answers with the problem document of err, under a request id of the runner's own: no function has given one.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("X-Request-Id", uuid.Must(uuid.NewV7()).String())
	problem.Write(w, r, err)
}
