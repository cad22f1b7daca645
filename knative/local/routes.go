package main

import (
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// gatewayRoutes are the gateway's paths: each leads, with all that is below it, to a function.
var gatewayRoutes = map[string]string{
	"login":       "login",
	"refresh":     "login",
	"logout":      "login",
	"validate":    "validate",
	"introspect":  "validate",
	".well-known": "validate",
	"upload":      "upload",
	"files":       "files",
	"accounts":    "accounts",
}

// router is the public address: a function by its host name (login.localhost), else by the gateway's paths.
type router struct {
	functions map[string]*function
}

// ServeHTTP passes the request to a function.
func (rt router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name, ok := hostFunction(r.Host); ok {
		f := rt.functions[name]
		if f == nil || !f.public {
			fail(w, r, problem.NotFound.With("there is no public function %q here", name))
			return
		}
		f.ServeHTTP(w, r)
		return
	}
	if gateway := rt.functions["gateway"]; gateway != nil {
		gateway.ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/healthz" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n") // the client may be gone; there is nobody left to tell
		return
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	name, ok := gatewayRoutes[first]
	if !ok {
		fail(w, r, problem.NotFound.With("no function answers at this path"))
		return
	}
	f := rt.functions[name]
	if f == nil || !f.public {
		fail(w, r, problem.NotFound.With("the function %q, which answers at this path, is not there", name))
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
