package function

import (
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// queryPasser is a handler that can exempt requests from Wrap's check of the query string.
type queryPasser interface {
	// PassesQuery reports whether Wrap must pass r to the handler without checking the query string. A handler exempts
	// a request if another handler checks the query string, or if the query string is not meant for the function.
	PassesQuery(r *http.Request) bool
}

// refuseBadQueries returns a handler that passes requests to handler and rejects every request whose query string
// cannot be parsed. If handler is a queryPasser, the requests that it exempts are passed on without a check.
func refuseBadQueries(handler http.Handler) http.Handler {
	passer, _ := handler.(queryPasser)
	// Use EndSmallBodies, because some functions need it for all of their responses, including this one. It does no
	// harm to the other functions.
	refusal := EndSmallBodies(problem.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error { return CheckQuery(r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if CheckQuery(r) != nil && (passer == nil || !passer.PassesQuery(r)) {
			refusal.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// CheckQuery returns a problem.BadRequest if the query string of r cannot be parsed. Without this check, a handler
// would ignore a malformed parameter, because url.URL.Query silently drops it.
func CheckQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return problem.BadRequest.With("the query string cannot be parsed: write %% as %%25 and ; as %%3B in a value")
	}
	return nil
}

// Query returns the parameters in the query string of r. It does not check the syntax of the query string, because
// Wrap has already checked it. If one of the listed parameters occurs more than once, the error is a
// problem.BadRequest, because the function and a proxy in front of it might use different values of the parameter.
func Query(r *http.Request, once ...string) (url.Values, error) {
	query := r.URL.Query()
	for _, name := range once {
		if len(query[name]) > 1 {
			return nil, problem.BadRequest.With("the parameter %s may appear only once in the query string", name)
		}
	}
	return query, nil
}
