package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// gatewayFunction is the name of the function that receives public requests whose host does not name a function.
const gatewayFunction = "gateway"

// router handles the requests at the public address. A host of the form NAME.localhost, such as login.localhost,
// selects the function with that name. All other requests go to the gateway.
type router struct {
	functions map[string]*function
}

// ServeHTTP forwards the request to a public function. It responds with 404 if the function does not exist or is not
// public.
func (rt router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := hostFunction(r.Host)
	if !ok {
		name = gatewayFunction
	}
	f := rt.functions[name]
	if f == nil || !f.public {
		fail(w, r, problem.NotFound.With("no public function is named %q", name))
		return
	}
	f.ServeHTTP(w, r)
}

// hostFunction returns the name of the function in a host such as login.localhost:8080. It returns false if the host
// does not end with .localhost.
func hostFunction(host string) (string, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.CutSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost")
}

// inside handles the requests that other functions send to a function. The proxy keeps the X-Forwarded-* headers of
// these requests, because they come from another function and not from a client.
type inside struct{ *function }

type insideKey struct{}

// ServeHTTP marks the request as sent by another function and passes it to the receiving function.
func (i inside) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.function.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), insideKey{}, true)))
}

// isInside reports whether the request came from another function and not from a client.
func isInside(r *http.Request) bool { return r.Context().Value(insideKey{}) != nil }
