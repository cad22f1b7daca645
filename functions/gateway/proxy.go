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

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// dialTimeout bounds the connecting to a function's address, at which Knative always answers.
	dialTimeout = 5 * time.Second
	// idleTimeout closes a connection before the other side does (the functions: after two minutes): a request that goes
	// out while its connection is closed is lost, and most can not be sent again.
	idleTimeout = 90 * time.Second
	// bufferSize is what a download holds in memory, in bytes.
	bufferSize = 32 << 10
)

// newTransport returns the connections to all functions.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         dial,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     idleTimeout,
		// A client that sends Expect: 100-continue waits for the function's word: a body that the function refuses is then
		// never sent. How long that may take is for patience to say.
		ExpectContinueTimeout: time.Hour,
		DisableCompression:    true,
	}
}

// newProxy passes requests on along a route, and bodies in both directions as they come. It calls finish with the headers
// of every answer.
func newProxy(to route, transport http.RoundTripper, buffers httputil.BufferPool, trust function.Trust, finish func(context.Context, http.Header)) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     patient{transport, to.patience},
		FlushInterval: -1,
		BufferPool:    buffers,
		ErrorLog:      slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug), // of answers that end early, mostly because clients go away
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to.target)
			p.Out.URL.RawQuery = p.In.URL.RawQuery // ReverseProxy drops the parameters that it cannot parse; functions refuse them
			introduce(p.In.Context(), p.Out.Header, to, trust)
			// The session is between the browser and the gateway, and no function speaks another protocol.
			for _, name := range []string{"Cookie", "Upgrade", "Connection"} {
				p.Out.Header.Del(name)
			}
			keepFromRetrying(p.Out)
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.StatusCode >= http.StatusBadGateway && answer.StatusCode <= http.StatusGatewayTimeout &&
				answer.Header.Get("Content-Type") != "application/problem+json" {
				// Not the function speaks, but what is in front of it.
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

// keepFromRetrying makes sure that http.Transport sends nothing twice that is not idempotent by its method. It would
// where the connection breaks and the request has an Idempotency-Key and no body, whether or not the function knows such
// keys. It looks for one spelling of the name only; to whoever gets the request, all are the same.
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
	errAsleep   = errors.New("no sign of life")
	errNotThere = errors.New("a proxy in front of the function gave an answer of its own")
	errBody     = errors.New("the client's body broke off")
)

// explain says what the failure of a request to a function means to the client. Whatever it is, the gateway does not
// try again: the function may have done what it was asked.
func explain(function string, err error) error {
	switch {
	case errors.Is(err, errBody):
		return problem.BadRequest.Because(err, "the body broke off")
	case errors.Is(err, errAsleep):
		return problem.Unavailable.Because(err, function+" does not answer yet; try again in a moment")
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Unavailable.Because(err, function+" took longer than it may")
	case errors.Is(err, errNotThere):
		return problem.Unavailable.Because(err, function+" can not be reached right now")
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return problem.Unavailable.Because(err, function+" can not be reached right now")
	}
	return problem.Unavailable.Because(err, function+" broke off before it had answered")
}
