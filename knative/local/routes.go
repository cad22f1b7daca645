package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// gatewayFunction is the function that answers at the public address.
const gatewayFunction = "gateway"

// router is the public address: a function by its host name (login.localhost), else the gateway.
type router struct {
	functions map[string]*function
}

// ServeHTTP passes the request to a function.
func (rt router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := hostFunction(r.Host)
	if !ok {
		name = gatewayFunction
	}
	f := rt.functions[name]
	if f == nil || !f.public {
		fail(w, r, problem.NotFound.With("there is no public function %q here", name))
		return
	}
	f.ServeHTTP(w, r)
}

// hostFunction returns the function that a host such as login.localhost:8080 names; false for any other host.
func hostFunction(host string) (string, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.CutSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost")
}

// inside is the address of a function for other functions: what NAME.strongroom.svc.cluster.local is in a cluster. What
// they say of where a request came from is passed on.
type inside struct{ *function }

type insideKey struct{}

// ServeHTTP passes the request to the function.
func (i inside) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.function.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), insideKey{}, true)))
}

// isInside tells whether a request came from another function.
func isInside(r *http.Request) bool { return r.Context().Value(insideKey{}) != nil }
