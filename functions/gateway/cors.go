package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// What pages of other sites may send and read, if the gateway lets them (the Fetch standard's CORS protocol). The header
// names from Tus-Resumable on are those of the tus protocol.
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

// corsMaxAge is how long a browser may remember the answer to a preflight, in seconds; Chromium takes two hours at most.
const corsMaxAge = "7200"

// parseOrigins reads sites, such as https://app.example.com. There is none for all: who wants that wants no list.
func parseOrigins(given []string) ([]string, error) {
	var origins []string
	for _, origin := range given {
		origin = strings.TrimSpace(origin)
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin {
			return nil, fmt.Errorf("%q is no origin: want one like https://app.example.com, as browsers write it", origin)
		}
		origins = append(origins, origin)
	}
	return origins, nil
}

// corsOrigin returns the origin of a request, if its pages may read the answer.
func corsOrigin(r *http.Request, origins []string) string {
	given := r.Header.Values("Origin")
	if len(given) == 1 && slices.Contains(origins, given[0]) {
		return given[0]
	}
	return ""
}

// setCORS writes what h says to a browser about who may read the answer; no function has a say in it. There is no
// Access-Control-Allow-Credentials: pages of other sites have tokens, and the session's cookie is for the console.
func setCORS(h http.Header, origin string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	if origin != "" {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", corsRead)
	}
}

// isPreflight tells whether a browser asks if a page of another site may send a request. OPTIONS by itself is for the
// function: tus clients ask it what it can do.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight answers for all functions: none needs to run for it.
func preflight(w http.ResponseWriter, origin string) error {
	h := w.Header()
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	if origin == "" {
		return problem.CrossSite.With("pages of that site may not call this one; CORS_ORIGINS lists those that may")
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsSent)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
