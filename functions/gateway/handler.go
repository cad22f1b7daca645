package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"

	"golang.org/x/net/publicsuffix"

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

// passing adds the PassesQuery method to the gateway's handler.
type passing struct{ http.Handler }

// PassesQuery returns true, so that function.Wrap does not check query strings. Otherwise, error responses from
// function.Wrap would lack the CORS headers that the gateway's finish method sets.
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
		// Handle only preflight requests here. Forward all other OPTIONS requests, because tus clients use them to
		// discover the capabilities of the upload function.
		if isPreflight(r) {
			h.finish(ctx, w.Header())
			return preflight(w, v.origin)
		}
		// Delete X-Request-Id from w. Otherwise, the client would receive the header twice, because finish adds it to
		// the function's response.
		w.Header().Del("X-Request-Id")
		// Enable full duplex, because net/http would otherwise read the whole request body before it sends the
		// response. This has no effect on HTTP/2, which is always full duplex.
		_ = http.NewResponseController(w).EnableFullDuplex()
		h.proxies[i].ServeHTTP(w, r.WithContext(ctx))
		return nil
	}
	ctx := context.WithValue(r.Context(), visitorKey{}, v)
	session := r.URL.Path == "/session" || strings.HasPrefix(r.URL.Path, "/session/")
	page := !session && (r.Method == http.MethodGet || r.Method == http.MethodHead)
	if page {
		for name, value := range consoleHeaders {
			w.Header().Set(name, value)
		}
	}
	h.finish(ctx, w.Header())
	// Check the query string here, because function.Wrap does not check it, and the gateway does not forward this
	// request to a function that would check it.
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

// consoleHeaders are the response headers that restrict the console's pages to the features that they need.
var consoleHeaders = map[string]string{
	// This policy allows blob URLs in frames, because the console uses such frames for previews. The frames are
	// safe, because they inherit this policy.
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; connect-src 'self'; " +
		"frame-src blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), display-capture=(), geolocation=(), microphone=()",
}

// finish sets the headers that all responses of the gateway have in common.
func (h *handler) finish(ctx context.Context, header http.Header) {
	v := visitorOf(ctx)
	// Set X-Request-Id even though function.Wrap has set it, because ReverseProxy clears all headers when it forwards
	// a 100 (Continue).
	header.Set("X-Request-Id", request.OriginOf(ctx).ID)
	setCORS(header, v.origin)
	if len(h.origins) > 0 {
		header.Add("Vary", "Origin")
	}
	for name, value := range map[string]string{
		// This policy is for responses that are not pages. It prevents a browser from loading or running anything
		// for such a response and from showing the response in a frame.
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options":  "nosniff",
		"Referrer-Policy":         "no-referrer",
	} {
		// Keep an existing header, because the files function sets stricter policies for downloads.
		if header.Get(name) == "" {
			header.Set(name, value)
		}
	}
	if v.scheme == "https" {
		// Set these headers only for HTTPS, because browsers ignore them over plain HTTP, and some browsers log a
		// warning.
		header.Set("Strict-Transport-Security", "max-age=31536000"+subdomains(v.host))
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
	}
}

// subdomains returns the directive of Strict-Transport-Security that includes the subdomains of a host (RFC 6797,
// section 6.1.2). It returns an empty string for a registrable domain, such as example.com, because the other sites of
// that domain might not support HTTPS.
func subdomains(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(host); err != nil || strings.EqualFold(domain, host) {
		return ""
	}
	return "; includeSubDomains"
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
