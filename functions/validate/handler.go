package main

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// maxForm bounds the body of POST /introspect, in bytes: a token of 8 KiB, percent-encoded, and its name.
	maxForm = 32 << 10
	// keysMaxAge is how long the public keys may be cached: a key that is added must be published this long before
	// login signs with it.
	keysMaxAge = "public, max-age=300"
)

// accountStore is what accounts.Store does for a token.
type accountStore interface {
	// Current returns the user, or accounts.ErrStaleToken if it is not as it was when the token was issued.
	Current(ctx context.Context, id string, version int) (accounts.User, error)
}

// handler answers /validate, /introspect and /.well-known/jwks.json.
type handler struct {
	verifier *token.Verifier
	keys     *token.Keys
	accounts accountStore // nil: tokens are not looked up
}

func newHandler(verifier *token.Verifier, keys *token.Keys, accounts accountStore) *handler {
	return &handler{verifier, keys, accounts}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	problem.HandlerFunc(h.route).ServeHTTP(w, r)
}

// PassesQuery reports whether the query string of r is that of the client's request, so that function.Wrap must not refuse
// r because of it.
func (h *handler) PassesQuery(r *http.Request) bool { return hasClientQuery(r) }

// hasClientQuery reports whether r asks at a path below /validate/. A proxy such as Envoy asks there: it appends the path
// and the query string of the client's request to /validate. The client wrote that query string.
func hasClientQuery(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/validate/") }

// authenticate returns the claims of the request's token if it is good, and still is where that is checked online.
func (h *handler) authenticate(r *http.Request) (*token.Claims, error) {
	claims, err := h.verifier.Authenticate(r)
	if err != nil {
		return nil, err
	}
	return claims, h.current(r.Context(), claims)
}

func (h *handler) current(ctx context.Context, claims *token.Claims) error {
	if h.accounts == nil {
		return nil
	}
	_, err := h.accounts.Current(ctx, claims.Subject, claims.Version)
	return err
}

// route is no ServeMux: that would answer a path like /validate/a//b with a redirect, and a proxy that asks about the
// path of somebody's request must get an answer to it.
func (h *handler) route(w http.ResponseWriter, r *http.Request) error {
	switch path := r.URL.Path; {
	case path == "/" || path == "/validate" || hasClientQuery(r):
		err := h.validate(w, r)
		status := http.StatusOK
		if err != nil {
			status = problem.Status(err)
		}
		telemetry.Validation(r.Context(), status, reason(err))
		return err
	case path == "/introspect":
		return h.introspect(w, r)
	case path == "/.well-known/jwks.json":
		return h.jwks(w, r)
	}
	return problem.NotFound.With("there is nothing at this path")
}

// reason is what metrics call the reason for an answer.
func reason(err error) string {
	switch {
	case err == nil:
		return "good"
	case errors.Is(err, token.ErrExpired):
		return "expired"
	case errors.Is(err, token.ErrInvalid):
		return "invalid"
	case errors.Is(err, accounts.ErrStaleToken):
		return "stale"
	case errors.Is(err, problem.InsufficientScope):
		return "scope"
	case errors.Is(err, problem.Unauthenticated):
		return "missing"
	case errors.Is(err, problem.BadRequest):
		return "malformed"
	}
	return "unavailable"
}

// scopeToken is one scope by RFC 6749 §3.3.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,128}$`)

// validate answers any method: a proxy passes on the method of the request that it asks about.
func (h *handler) validate(w http.ResponseWriter, r *http.Request) error {
	claims, err := h.authenticate(r)
	if err != nil {
		return err
	}
	scopes, err := demanded(r)
	if err != nil {
		return err
	}
	if err := claims.Demand(scopes...); err != nil {
		return err
	}
	// All of them always, so that a proxy that copies them overwrites whatever the client sent under these names.
	header := w.Header()
	header.Set("X-Auth-User-Id", claims.Subject)
	header.Set("X-Auth-Username", claims.Username)
	header.Set("X-Auth-Roles", strings.Join(claims.Roles, " "))
	header.Set("X-Auth-Scope", claims.Scope)
	problem.Encoded(w, http.StatusOK, claims.Payload())
	return nil
}

// demanded returns the scopes that the query string of r demands of the token. The operator of a proxy wrote that query
// string. A misspelled demand must not become no demand, so any parameter but scope is a problem.BadRequest. The query
// string of a client demands nothing.
func demanded(r *http.Request) ([]string, error) {
	if r.URL.RawQuery == "" || hasClientQuery(r) {
		return nil, nil
	}
	query, err := function.Query(r)
	if err != nil {
		return nil, err
	}
	for name := range query {
		if name != "scope" {
			return nil, problem.BadRequest.With("the query string may have the parameter scope and no other")
		}
	}
	for _, scope := range query["scope"] {
		if !scopeToken.MatchString(scope) {
			return nil, problem.BadRequest.With("a scope in the query string is not well-formed")
		}
	}
	return query["scope"], nil
}

// introspection is the answer of RFC 7662 §2.2 for a good token.
type introspection struct {
	Active    bool     `json:"active"`
	TokenType string   `json:"token_type"`
	Issuer    string   `json:"iss"`
	Audience  []string `json:"aud"`
	Subject   string   `json:"sub"`
	ExpiresAt int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	ID        string   `json:"jti"`
	ClientID  string   `json:"client_id"`
	Username  string   `json:"username"`
	Scope     string   `json:"scope"`
	Roles     []string `json:"roles"`
}

// introspect tells a caller that bears a token itself about another one (RFC 7662).
func (h *handler) introspect(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return problem.MethodNotAllowed.With("use POST").Header("Allow", http.MethodPost)
	}
	if _, err := h.authenticate(r); err != nil {
		return err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return problem.UnsupportedType.With("send the token as application/x-www-form-urlencoded")
	}
	body, err := function.ReadBody(w, r, maxForm)
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return problem.BadRequest.Because(err, "the form cannot be parsed")
	}
	values := form["token"]
	if len(values) != 1 || values[0] == "" {
		return problem.BadRequest.With("send one token in the form")
	}
	claims, err := h.verifier.Verify(values[0])
	if err == nil {
		err = h.current(r.Context(), claims)
	}
	if errors.Is(err, problem.Unavailable) {
		return err // nothing is known of the token
	}
	if err != nil {
		// RFC 7662 §2.2: whatever is wrong with the token, the answer says no more than this.
		return problem.JSON(w, http.StatusOK, map[string]bool{"active": false})
	}
	return problem.JSON(w, http.StatusOK, introspection{true, "Bearer", claims.Issuer, claims.Audience, claims.Subject,
		claims.ExpiresAt.Unix(), claims.IssuedAt.Unix(), claims.ID, claims.ClientID, claims.Username, claims.Scope, claims.Roles})
}

// jwks publishes the keys (RFC 7517 §5), so that others can verify tokens without asking.
func (h *handler) jwks(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return problem.MethodNotAllowed.With("use GET").Header("Allow", "GET, HEAD")
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", keysMaxAge)
	_, _ = w.Write(h.keys.JWKS()) // the client may be gone; there is nobody left to tell
	return nil
}
