package telemetry

import (
	"net/http"
	"slices"
	"strings"
)

// routes are what requests go to; * stands for one segment of a path, and ** for any that are left. The first that
// matches is it.
var routes = []string{
	"/", "/login", "/refresh", "/logout", "/session", "/session/refresh",
	"/validate", "/validate/**", "/introspect", "/.well-known/**",
	"/upload", "/upload/tus", "/upload/tus/*",
	"/files", "/files/*", "/files/*/content", "/files/*/link",
	"/accounts", "/accounts/me", "/accounts/me/password", "/accounts/audit", "/accounts/*", "/accounts/*/**",
	"/assets/**",
}

// segments are those of routes.
var segments = func() (all [][]string) {
	for _, route := range routes {
		all = append(all, strings.Split(route, "/"))
	}
	return all
}()

// otherRoute stands for all paths where there is nothing.
const otherRoute = "other"

// Route returns which of a small number of routes a path belongs to: what may be a label or the name of a span, since
// nobody can make more of them.
func Route(path string) string {
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	given := strings.Split(path, "/")
	for i, route := range segments {
		if matches(route, given) {
			return routes[i]
		}
	}
	return otherRoute
}

func matches(route, given []string) bool {
	for i, segment := range route {
		switch {
		case segment == "**":
			return len(given) > i
		case i == len(given) || segment != "*" && segment != given[i]:
			return false
		}
	}
	return len(route) == len(given)
}

// methods are those that are told apart; a proxy that asks validate passes on any.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// knownMethod returns method, or the stand-in that OpenTelemetry has for what is none.
func knownMethod(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "_OTHER"
}
