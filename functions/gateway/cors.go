package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// The values of CORS response headers (Fetch standard) for pages whose origin is in CORS_ORIGINS.
var (
	// corsMethods lists the methods that a page may use.
	corsMethods = strings.Join([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, ", ")
	// corsSent lists the headers that a page may send: the headers that the functions read, and headers that HTTP
	// libraries for browsers add to each request. A browser rejects a request with any other header.
	corsSent = strings.Join([]string{
		"Authorization", "Content-Type", "Content-Digest", "Repr-Digest", "Want-Content-Digest", "Want-Repr-Digest",
		"Content-Disposition", "Content-Encoding", "Idempotency-Key", "Range",
		"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since",
		"X-Request-Id", "traceparent", "tracestate", "X-Device-Token",
		"Tus-Resumable", "Upload-Length", "Upload-Defer-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum", "Upload-Concat",
		"X-HTTP-Method-Override",                      // for tus clients
		"Cache-Control", "Pragma", "X-Requested-With", // for Dropzone, jQuery and similar libraries
	}, ", ")
	// corsRead lists the response headers that a page may read.
	corsRead = strings.Join([]string{
		"Location", "ETag", "Accept-Ranges", "Content-Range", "Content-Digest", "Repr-Digest", "Content-Disposition", "Retry-After",
		"WWW-Authenticate", "X-Request-Id",
		"Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
		"Upload-Length", "Upload-Defer-Length", "Upload-Offset", "Upload-Metadata", "Upload-Expires", "Upload-Concat",
	}, ", ")
)

// corsMaxAge is how long, in seconds, a browser may cache the response to a preflight request. It is set to two
// hours, the longest time that Chromium allows.
const corsMaxAge = "7200"

// parseOrigins checks the origins in the CORS_ORIGINS setting, and returns them without surrounding spaces. It rejects
// the wildcard "*", so that an operator must list each site.
func parseOrigins(given []string) ([]string, error) {
	var origins []string
	for _, origin := range given {
		origin = strings.TrimSpace(origin)
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin {
			return nil, fmt.Errorf("%q is not an origin: use the form that browsers send, such as https://app.example.com", origin)
		}
		origins = append(origins, origin)
	}
	return origins, nil
}

// corsOrigin returns the value of the Origin header if origins contains it, and an empty string otherwise.
func corsOrigin(r *http.Request, origins []string) string {
	given := r.Header.Values("Origin")
	if len(given) == 1 && slices.Contains(origins, given[0]) {
		return given[0]
	}
	return ""
}

// setCORS replaces the CORS headers in h. If origin is empty, setCORS only removes these headers, so that no other
// site's page can read the response.
func setCORS(h http.Header, origin string) {
	// Remove the function's CORS headers, because only the gateway decides which sites may read a response.
	maps.DeleteFunc(h, func(name string, _ []string) bool { return strings.HasPrefix(name, "Access-Control-") })
	if origin != "" {
		// Never set Access-Control-Allow-Credentials, because other sites' pages must use access tokens instead of the
		// session cookie.
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsRead)
	}
}

// isPreflight reports whether r is a CORS preflight request. A browser sends a preflight request to check whether a
// page of another site may send the actual request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight responds to a CORS preflight request. The gateway does not forward preflight requests, so that no function
// has to start for them.
func preflight(w http.ResponseWriter, origin string) error {
	h := w.Header()
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	if origin == "" {
		return problem.CrossSite.With("pages of this origin are not allowed to send requests: an operator must add the origin to the CORS_ORIGINS setting")
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsSent)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
