package function

import (
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// queryPasser is implemented by a handler that takes some requests although their query strings cannot be parsed.
type queryPasser interface {
	// PassesQuery reports whether Wrap must not check the query string of r, because the query string belongs to another
	// request, or because another handler checks it.
	PassesQuery(r *http.Request) bool
}

// refuseBadQueries refuses each request whose query string cannot be parsed, unless handler is a queryPasser that passes
// the query string.
func refuseBadQueries(handler http.Handler) http.Handler {
	passer, _ := handler.(queryPasser)
	// A function that ends small bodies must do so before this response, too. For the other functions it does no harm.
	refusal := EndSmallBodies(problem.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error { return CheckQuery(r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if CheckQuery(r) != nil && (passer == nil || !passer.PassesQuery(r)) {
			refusal.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// CheckQuery returns a problem.BadRequest if the query string of r cannot be parsed. url.URL.Query drops the parameters
// that it cannot parse. A handler would then take a parameter that the client sent for one that it did not send.
func CheckQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return problem.BadRequest.With("the query string cannot be parsed: write %% as %%25 and ; as %%3B in a value")
	}
	return nil
}

// Query returns the parameters in the query string of r, which Wrap has checked. The error is a problem.BadRequest if one
// of the parameters in once is repeated: programs on the way could read another of its values than the handler does.
func Query(r *http.Request, once ...string) (url.Values, error) {
	query := r.URL.Query()
	for _, name := range once {
		if len(query[name]) > 1 {
			return nil, problem.BadRequest.With("the parameter %s may appear only once in the query string", name)
		}
	}
	return query, nil
}
