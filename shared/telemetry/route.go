package telemetry

import (
	"net/http"
	"slices"
	"strings"
)

// routes lists path patterns that group requests in metrics and traces. In a pattern, * matches one path segment, and
// ** matches one or more segments at the end. The first matching pattern applies.
var routes = []string{
	"/", "/login", "/login/passkey", "/login/passkey/options", "/refresh", "/logout",
	"/session", "/session/refresh", "/session/passkey", "/session/passkey/options", "/sessions", "/sessions/*",
	"/validate", "/validate/**", "/introspect", "/.well-known/**",
	"/upload", "/upload/tus", "/upload/tus/*",
	"/files", "/files/*", "/files/*/content", "/files/*/link",
	"/accounts", "/accounts/me", "/accounts/me/password", "/accounts/audit", "/accounts/*", "/accounts/*/**",
	"/assets/**",
}

// segments contains the elements of routes, split at the slashes.
var segments = func() (all [][]string) {
	for _, route := range routes {
		all = append(all, strings.Split(route, "/"))
	}
	return all
}()

// otherRoute is the route of every path that matches no element of routes.
const otherRoute = "other"

// Route returns the first element of routes that matches path, or otherRoute. The result can be used as a label value
// and in a span name, because the set of possible results is fixed.
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

// methods lists the HTTP methods that metrics and traces distinguish. knownMethod replaces all other methods,
// because every method that a client invents would otherwise become another label value.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// knownMethod returns the given method if the methods list contains it. Otherwise, it returns _OTHER, which
// OpenTelemetry defines for unknown methods.
func knownMethod(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "_OTHER"
}
