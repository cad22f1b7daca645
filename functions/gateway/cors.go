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

// corsMethods, corsSent and corsRead are the values of CORS response headers (Fetch standard). A page from an origin in
// CORS_ORIGINS may use the methods in corsMethods, send the headers in corsSent, and read the response headers in
// corsRead. In both header lists, the names from Tus-Resumable to the end belong to the tus protocol.
var (
	corsMethods = strings.Join([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, ", ")
	corsSent    = strings.Join([]string{
		"Authorization", "Content-Type", "Content-Digest", "Content-Disposition", "Idempotency-Key", "If-None-Match", "If-Range", "Range",
		"X-Request-Id", "traceparent", "tracestate",
		"Tus-Resumable", "Upload-Length", "Upload-Defer-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum", "Upload-Concat",
		"X-HTTP-Method-Override",
	}, ", ")
	corsRead = strings.Join([]string{
		"Location", "ETag", "Accept-Ranges", "Content-Range", "Content-Disposition", "Retry-After", "WWW-Authenticate", "X-Request-Id",
		"Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
		"Upload-Length", "Upload-Defer-Length", "Upload-Offset", "Upload-Metadata", "Upload-Expires", "Upload-Concat",
	}, ", ")
)

// corsMaxAge is how long a browser may cache the response to a preflight request, in seconds. The value is two hours,
// because Chromium does not cache such a response for longer.
const corsMaxAge = "7200"

// parseOrigins checks the origins in the setting CORS_ORIGINS, such as https://app.example.com, and returns them
// without surrounding spaces. It rejects wildcards such as *, so that an operator must list each site.
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

// setCORS replaces the CORS headers in h, because only the gateway decides which sites may read a response. If origin
// is empty, setCORS only removes these headers, so that no other site's page can read the response. setCORS never sets
// Access-Control-Allow-Credentials, because other sites' pages must use access tokens instead of the session cookie.
func setCORS(h http.Header, origin string) {
	maps.DeleteFunc(h, func(name string, _ []string) bool { return strings.HasPrefix(name, "Access-Control-") })
	if origin != "" {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsRead)
	}
}

// isPreflight reports whether r is a CORS preflight request, with which a browser checks whether another site's page
// may send a request. The gateway forwards all other OPTIONS requests, because tus clients use them to discover the
// capabilities of the upload function.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight responds to a CORS preflight request. The gateway does not forward preflight requests, so that no function
// has to start for them.
func preflight(w http.ResponseWriter, origin string) error {
	h := w.Header()
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	if origin == "" {
		return problem.CrossSite.With("pages of this origin may not send requests: an operator must add the origin to the setting CORS_ORIGINS")
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsSent)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
