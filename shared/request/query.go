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

// Query returns the parameters in the query string of r. It does not check the syntax of the query string, because
// function.Wrap has already checked it. If a parameter whose name is in singles occurs more than once, the error is a
// problem.BadRequest, because the function and a proxy in front of it might use different values of the parameter.
func Query(r *http.Request, singles ...string) (url.Values, error) {
	query := r.URL.Query()
	for _, name := range singles {
		if len(query[name]) > 1 {
			return nil, problem.BadRequest.With("the parameter %s may appear only once in the query string", name)
		}
	}
	return query, nil
}
