// Package routing selects the handler for an HTTP request by the request's path and method. Unlike http.ServeMux, it
// never redirects, and all of its error responses are problem documents.
package routing

import (
	"net/http"
	"slices"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Any is the key in Methods for a handler that accepts all methods.
const Any = "*"

// Methods maps HTTP methods to handlers. The handler for GET also handles HEAD, unless HEAD has its own handler.
type Methods map[string]http.Handler

// Table maps paths to methods. A segment in braces, such as {id}, matches any segment that is not empty. A final
// "..." matches the rest of the path. Two paths with wildcards must not match the same request.
type Table map[string]Methods

// pattern is a path that contains wildcards.
type pattern struct {
	segments []string
	methods  Methods
}

// Handler returns a handler for the table. It responds with 404 to an unknown path, and with 405 to a method that
// the path does not support.
func (t Table) Handler() http.Handler {
	var patterns []pattern
	for path, methods := range t {
		if strings.Contains(path, "{") || strings.HasSuffix(path, "/...") {
			patterns = append(patterns, pattern{strings.Split(path, "/"), methods})
		}
	}
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		// A path in the table that is identical to the request's path takes precedence over paths with wildcards.
		methods, ok := t[r.URL.Path]
		for i := 0; !ok && i < len(patterns); i++ {
			if ok = patterns[i].match(r); ok {
				methods = patterns[i].methods
			}
		}
		if !ok {
			return problem.NotFound.With("no such endpoint")
		}
		for _, method := range []string{r.Method, Any} {
			if handler := methods[method]; handler != nil {
				handler.ServeHTTP(w, r)
				return nil
			}
		}
		if get := methods[http.MethodGet]; get != nil && r.Method == http.MethodHead {
			get.ServeHTTP(w, r)
			return nil
		}
		allow := methods.allow()
		return problem.MethodNotAllowed.With("use %s", allow).Header("Allow", allow)
	})
}

// match reports whether the path of r matches p, and sets the path values of r.
func (p pattern) match(r *http.Request) bool {
	segments := strings.Split(r.URL.Path, "/")
	if last := len(p.segments) - 1; p.segments[last] == "..." && len(segments) > last {
		segments = append(segments[:last:last], "...")
	}
	if len(segments) != len(p.segments) {
		return false
	}
	for i, want := range p.segments {
		name, wildcard := strings.CutPrefix(want, "{")
		if wildcard && segments[i] != "" {
			r.SetPathValue(strings.TrimSuffix(name, "}"), segments[i])
		} else if segments[i] != want {
			return false
		}
	}
	return true
}

// allow returns the value of the Allow header (RFC 9110, section 10.2.1).
func (m Methods) allow() string {
	var names []string
	for _, name := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if m[name] != nil || name == http.MethodHead && slices.Contains(names, http.MethodGet) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
