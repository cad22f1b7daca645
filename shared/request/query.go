package request

import (
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

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

// Query returns the query parameters of r. function.Wrap has already checked their syntax. If a parameter listed in
// singles occurs more than once, the error is a problem.BadRequest.
func Query(r *http.Request, singles ...string) (url.Values, error) {
	query := r.URL.Query()
	for _, name := range singles {
		// Reject a repeated parameter, because a proxy in front of the function might use a different value than the
		// function.
		if len(query[name]) > 1 {
			return nil, problem.BadRequest.With("the parameter %s may appear only once in the query string", name)
		}
	}
	return query, nil
}
