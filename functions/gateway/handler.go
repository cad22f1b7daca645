package main

import (
	"context"
	"net/http"
	"net/http/httputil"
	"sync"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// handler routes by path: to the functions, to the browser's session, and else to the console.
type handler struct {
	routes   []route
	proxies  []*httputil.ReverseProxy // one a route
	sessions *sessions
	console  http.Handler
	trust    function.Trust
	origins  []string
}

func newHandler(routes []route, trust function.Trust, origins []string, console http.Handler) http.Handler {
	h := &handler{routes: routes, trust: trust, origins: origins, console: console}
	transport, buffers := newTransport(), &buffers{}
	for _, to := range routes {
		h.proxies = append(h.proxies, newProxy(to, transport, buffers, trust, h.finish))
		if to.path == "/login" {
			h.sessions = newSessions(to, transport, trust)
		}
	}
	return passing{function.EndSmallBodies(problem.HandlerFunc(h.serve))}
}

// passing is the handler of the gateway.
type passing struct{ http.Handler }

// PassesQuery reports true: the function that a request is passed on to checks the query string, and serve checks it for
// the other requests. Wrap would refuse a request without the headers of finish, and a page of another site could not read
// such a response.
func (passing) PassesQuery(*http.Request) bool { return true }

func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	v := newVisitor(r, h.trust)
	for i, to := range h.routes {
		if !to.leads(r.URL.Path) {
			continue
		}
		v.origin = corsOrigin(r, h.origins)
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), visitorKey{}, v), to.timeout)
		defer cancel()
		if isPreflight(r) {
			h.finish(ctx, w.Header())
			return preflight(w, v.origin)
		}
		// The proxy sets the id with the other headers: it loses those that are there before a 100 (Continue).
		w.Header().Del("X-Request-Id")
		// Or net/http would hold the answer back until the whole body has been read. HTTP/2 never does, and refuses this.
		_ = http.NewResponseController(w).EnableFullDuplex()
		h.proxies[i].ServeHTTP(w, r.WithContext(ctx))
		return nil
	}
	ctx := context.WithValue(r.Context(), visitorKey{}, v)
	session := r.URL.Path == "/session" || r.URL.Path == "/session/refresh"
	page := !session && (r.Method == http.MethodGet || r.Method == http.MethodHead)
	if page {
		for name, value := range consoleHeaders {
			w.Header().Set(name, value)
		}
	}
	h.finish(ctx, w.Header())
	if err := function.CheckQuery(r); err != nil {
		return err
	}
	r = r.WithContext(ctx)
	switch {
	case session:
		return h.sessions.serve(w, r)
	case page:
		h.console.ServeHTTP(w, r)
		return nil
	default:
		return problem.NotFound.With("there is nothing at this path")
	}
}

// consoleHeaders let the console do what it does, and nothing else: it runs its own scripts, with its own styles, shows
// previews from blobs (in frames that inherit this policy), and talks to this site.
var consoleHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; connect-src 'self'; " +
		"frame-src blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), display-capture=(), geolocation=(), microphone=()",
}

// finish writes into the headers of an answer what every answer has; what a function says of its own answer is left,
// so that a file keeps its stricter policy.
func (h *handler) finish(ctx context.Context, header http.Header) {
	v := visitorOf(ctx)
	header.Set("X-Request-Id", function.RequestID(ctx))
	setCORS(header, v.origin)
	if len(h.origins) > 0 {
		header.Add("Vary", "Origin")
	}
	for name, value := range map[string]string{
		// Nothing that is not the console is a page: where a browser shows it all the same, it loads and runs nothing, in
		// nobody's frame.
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options":  "nosniff",
		"Referrer-Policy":         "no-referrer",
	} {
		if header.Get(name) == "" {
			header.Set(name, value)
		}
	}
	if v.scheme == "https" {
		// Browsers heed neither over plain HTTP, and some complain in their logs.
		header.Set("Strict-Transport-Security", "max-age=31536000")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
}

// buffers are what answers are copied through (httputil.BufferPool).
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }
