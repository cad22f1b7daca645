package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
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
	// signed reports whether the gateway signs the client's IP address and sends it to the function.
	signed bool
}

// newRoutes returns the routes to the functions that clients can call. The targets map contains the functions' base
// URLs, keyed by function name.
func newRoutes(targets map[string]*url.URL) []route {
	// In each route, patience is longer than the function usually needs to begin its response, and timeout is longer
	// than the function's REQUEST_TIMEOUT. Therefore, if the function times out, the client receives the function's
	// error response and not one from the gateway.
	login := route{function: "login", patience: 35 * time.Second, timeout: 40 * time.Second, signed: true}
	accounts := route{function: "accounts", patience: 35 * time.Second, timeout: 40 * time.Second, signed: true}
	validate := route{function: "validate", patience: 15 * time.Second, timeout: 20 * time.Second}
	// The upload function can wait up to 40 s for MongoDB and RabbitMQ after it has read the whole body, so its
	// patience limit must exceed 40 s.
	upload := route{function: "upload", patience: time.Minute, timeout: 590 * time.Second}
	files := route{function: "files", patience: 35 * time.Second, timeout: 594 * time.Second}
	var routes []route
	add := func(r route, below bool, paths ...string) {
		for _, path := range paths {
			r.path, r.below, r.target = path, below, targets[r.function]
			routes = append(routes, r)
		}
	}
	// The record and sweep functions have no route, because only event sources call them. The gateway itself serves
	// the session endpoints and the console.
	add(login, false, "/login", "/refresh", "/logout")
	add(validate, true, "/validate")
	add(validate, false, "/introspect", "/.well-known/jwks.json")
	add(upload, false, "/upload")
	add(upload, true, "/upload/tus")
	add(files, true, "/files")
	add(accounts, true, "/accounts")
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
		base, err := parseBase(address)
		if err != nil {
			return nil, fmt.Errorf("%s_URL: %w", strings.ToUpper(name), err)
		}
		targets[name] = base
	}
	return targets, nil
}

// parseBase parses a function's base URL and removes a trailing slash. The URL must have the scheme http or https, a
// host, and no other parts.
func parseBase(address string) (*url.URL, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("the base URL is not a valid URL")
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" ||
		strings.Trim(base.Path, "/") != "" {
		return nil, errors.New("the base URL must have only a scheme and a host, such as http://login.strongroom.svc.cluster.local")
	}
	base.Path = ""
	return base, nil
}
