package main

import (
	"net/url"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
)

// route assigns requests for a path to a function.
type route struct {
	path string
	// below reports whether the route also includes all paths below its own path.
	below bool
	// function and target are the name and the base URL of the function that handles the route's requests.
	function string
	target   *url.URL
	// patience limits how long the gateway waits for the response to begin. The time includes the start of a function
	// instance, but not the time that the gateway spends waiting for the client. It starts again whenever the function
	// reads more of the request body.
	patience time.Duration
	// timeout limits the duration of the whole request. It is longer than the function's REQUEST_TIMEOUT.
	timeout time.Duration
	// password reports whether the function verifies a password. Such a request gets the device token of the browser,
	// because a known device has its own limit of attempts.
	password bool
}

// newRoutes returns the routes to the functions that clients can call. The targets map contains the functions' base
// URLs, keyed by function name.
func newRoutes(targets map[string]*url.URL) []route {
	// In each route, patience is longer than the function usually needs to begin its response, and timeout is longer
	// than the function's REQUEST_TIMEOUT. Therefore, if the function times out, the client receives the function's
	// error response and not one from the gateway.
	login := route{function: "login", patience: 35 * time.Second, timeout: 40 * time.Second}
	accounts := route{function: "accounts", patience: 35 * time.Second, timeout: 40 * time.Second}
	validate := route{function: "validate", patience: 15 * time.Second, timeout: 20 * time.Second}
	// The upload function can wait up to 40 s for MongoDB and RabbitMQ after it has read the whole body, so its
	// patience limit must exceed 40 s.
	upload := route{function: "upload", patience: time.Minute, timeout: 590 * time.Second}
	files := route{function: "files", patience: 35 * time.Second, timeout: 594 * time.Second}
	withPassword := func(r route) route { r.password = true; return r }
	var routes []route
	add := func(r route, below bool, paths ...string) {
		for _, path := range paths {
			r.path, r.below, r.target = path, below, targets[r.function]
			routes = append(routes, r)
		}
	}
	// The record and sweep functions have no route, because only event sources call them. The gateway itself serves
	// the session endpoints and the console.
	add(withPassword(login), false, "/login")
	add(login, false, "/login/passkey", "/login/passkey/options", "/refresh", "/logout")
	add(validate, true, "/validate")
	add(validate, false, "/introspect", "/.well-known/jwks.json")
	add(upload, false, "/upload")
	add(upload, true, "/upload/tus")
	add(files, true, "/files")
	add(withPassword(accounts), false, "/accounts/me/password") // before /accounts, because the first match counts
	add(accounts, true, "/accounts", "/sessions")
	return routes
}

// leads reports whether the route applies to requests for the given path.
func (r route) leads(path string) bool {
	rest, ok := strings.CutPrefix(path, r.path)
	return ok && (rest == "" || r.below && rest[0] == '/')
}

// targets returns the base URLs of the functions, keyed by function name. An error names the invalid setting.
func (cfg config) targets() (map[string]*url.URL, error) {
	targets := map[string]*url.URL{}
	for name, address := range map[string]string{
		"login": cfg.LoginURL, "validate": cfg.ValidateURL, "upload": cfg.UploadURL, "files": cfg.FilesURL, "accounts": cfg.AccountsURL,
	} {
		base, err := function.ParseURL(strings.ToUpper(name)+"_URL", address)
		if err != nil {
			return nil, err
		}
		targets[name] = base
	}
	return targets, nil
}
