package main

import (
	"context"
	"net/http"
	"net/http/httputil"
	"sync"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// handler passes each request to a function, to the session endpoints or to the console, depending on the path.
type handler struct {
	routes   []route
	proxies  []*httputil.ReverseProxy // the proxy for each route, in the order of routes
	sessions http.Handler
	console  http.Handler
	trust    client.Trust
	origins  []string
}

func newHandler(routes []route, trust client.Trust, origins []string, console http.Handler) http.Handler {
	h := &handler{routes: routes, trust: trust, origins: origins, console: console}
	transport, buffers := newTransport(), &buffers{}
	for _, to := range routes {
		h.proxies = append(h.proxies, newProxy(to, transport, buffers, trust, h.finish))
		if to.path == "/login" {
			h.sessions = newSessions(to, transport, trust).handler()
		}
	}
	return passing{function.EndSmallBodies(problem.HandlerFunc(h.serve))}
}

// passing is the gateway's handler. Its method PassesQuery prevents function.Wrap from rejecting malformed query
// strings.
type passing struct{ http.Handler }

// PassesQuery returns true, so that function.Wrap does not reject malformed query strings. An error response from
// function.Wrap would lack the CORS headers that finish sets, so another site's page could not read it. Instead, the
// functions check the query strings of forwarded requests, and the method serve checks the query strings of all other
// requests.
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
		// Delete X-Request-Id from w, because finish also sets it on the function's response, and the client would
		// receive it twice. The header in w is not sufficient, because ReverseProxy clears all headers of w when it
		// forwards a 100 (Continue).
		w.Header().Del("X-Request-Id")
		// Enable full duplex, because net/http would otherwise not send the response until it has read the whole
		// request body. Ignore the error, because it occurs only with HTTP/2, which is always full duplex.
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
	if err := request.CheckQuery(r); err != nil {
		return err
	}
	r = r.WithContext(ctx)
	switch {
	case session:
		h.sessions.ServeHTTP(w, r)
		return nil
	case page:
		h.console.ServeHTTP(w, r)
		return nil
	default:
		return problem.NotFound.With("no such endpoint")
	}
}

// consoleHeaders are the response headers that restrict the console's pages to the features that they need. A page can
// use only the console's own scripts and styles, and can send requests only to this site. It can also show previews
// from blob URLs in frames. This is safe, because these frames inherit the page's Content-Security-Policy.
var consoleHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; connect-src 'self'; " +
		"frame-src blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), display-capture=(), geolocation=(), microphone=()",
}

// finish sets the headers that all responses of the gateway have in common. It does not replace an existing
// Content-Security-Policy, X-Content-Type-Options or Referrer-Policy header, because the files function sets stricter
// policies for downloads.
func (h *handler) finish(ctx context.Context, header http.Header) {
	v := visitorOf(ctx)
	header.Set("X-Request-Id", function.RequestID(ctx))
	setCORS(header, v.origin)
	if len(h.origins) > 0 {
		header.Add("Vary", "Origin")
	}
	for name, value := range map[string]string{
		// This policy is for responses that are not pages. If a browser displays such a response as a page, the page
		// cannot load or run anything, and no site can show the page in a frame.
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options":  "nosniff",
		"Referrer-Policy":         "no-referrer",
	} {
		if header.Get(name) == "" {
			header.Set(name, value)
		}
	}
	if v.scheme == "https" {
		// Set these headers only for HTTPS, because browsers ignore them over plain HTTP, and some browsers log a
		// warning.
		header.Set("Strict-Transport-Security", "max-age=31536000")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
}

// buffers is a pool of buffers that the proxies use to copy response bodies.
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
