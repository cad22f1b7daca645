package main

import (
	"errors"
	"net/url"
	"strings"
	"time"
)

// route is where a path leads.
type route struct {
	path string
	// below is set where all that is below the path leads there, too.
	below bool
	// function and target are the name of the function and its address.
	function string
	target   *url.URL
	// patience is how long the function may give no sign of life before it has answered: take no more of the body,
	// although there is more, nor begin its answer once it has all of it. A function that has to be started first needs
	// its time. timeout bounds the whole request. Both are longer than the function's own limits (its REQUEST_TIMEOUT,
	// and timeoutSeconds in its manifest), so that its own answer is the one that comes.
	patience, timeout time.Duration
	// signed is set where the function is told the signed address of who called.
	signed bool
}

// newRoutes returns all that can be reached through the gateway but the sessions and the console; targets are the
// addresses of the functions. record and sweep are not for users.
func newRoutes(targets map[string]*url.URL) []route {
	login := route{function: "login", patience: 35 * time.Second, timeout: 40 * time.Second, signed: true}
	accounts := route{function: "accounts", patience: 35 * time.Second, timeout: 40 * time.Second, signed: true}
	validate := route{function: "validate", patience: 15 * time.Second, timeout: 20 * time.Second}
	// When it has all, upload still waits for MongoDB and for RabbitMQ, for 40 s at most.
	upload := route{function: "upload", patience: time.Minute, timeout: 590 * time.Second}
	files := route{function: "files", patience: 35 * time.Second, timeout: 594 * time.Second}
	var routes []route
	add := func(r route, below bool, paths ...string) {
		for _, path := range paths {
			r.path, r.below, r.target = path, below, targets[r.function]
			routes = append(routes, r)
		}
	}
	add(login, false, "/login", "/refresh", "/logout")
	add(validate, true, "/validate")
	add(validate, false, "/introspect", "/.well-known/jwks.json")
	add(upload, false, "/upload")
	add(upload, true, "/upload/tus")
	add(files, true, "/files")
	add(accounts, true, "/accounts")
	return routes
}

// leads tells whether a request for path takes this route.
func (r route) leads(path string) bool {
	rest, ok := strings.CutPrefix(path, r.path)
	return ok && (rest == "" || r.below && rest[0] == '/')
}

// parseBase reads the address of a function: a URL without a path.
func parseBase(address string) (*url.URL, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" ||
		strings.Trim(base.Path, "/") != "" {
		return nil, errors.New("want one like http://login.strongroom.svc.cluster.local, without a path")
	}
	base.Path = ""
	return base, nil
}
