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
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// maxForm is the maximum size of the request body for POST /introspect, in bytes. It allows a token of 8 KiB in
	// which every byte is percent-encoded.
	maxForm = 32 << 10
	// keysMaxAge lets clients cache the public keys for 300 s. A new key must therefore be published at least 300 s
	// before the login function signs with it.
	keysMaxAge = "public, max-age=300"
)

// accountStore is implemented by accounts.Store.
type accountStore interface {
	Current(ctx context.Context, claims *token.Claims) (accounts.User, error)
}

// handler serves /validate, /introspect and /.well-known/jwks.json.
type handler struct {
	http.Handler
	verifier *token.Verifier
	accounts accountStore // nil if the function does not look up accounts
}

// newHandler returns the handler of the validate function. All paths below /validate/ are valid, because a proxy such
// as Envoy appends the path of the client's request to /validate.
func newHandler(verifier *token.Verifier, accounts accountStore) *handler {
	h := &handler{verifier: verifier, accounts: accounts}
	validate := routing.Methods{routing.Any: problem.HandlerFunc(h.measure)}
	h.Handler = routing.Table{
		"/":                      validate,
		"/validate":              validate,
		"/validate/...":          validate,
		"/introspect":            {http.MethodPost: problem.HandlerFunc(h.introspect)},
		"/.well-known/jwks.json": {http.MethodGet: problem.HandlerFunc(h.jwks)},
	}.Handler()
	return h
}

// PassesQuery reports whether function.Wrap must skip its check of the query string in r. It returns true if the
// query string was meant for another function.
func (h *handler) PassesQuery(r *http.Request) bool { return hasClientQuery(r) }

// hasClientQuery reports whether the query string of r belongs to a client's request to another function. It does for
// all paths below /validate/, because a proxy such as Envoy appends the path and query string of that request to
// /validate.
func hasClientQuery(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/validate/") }

// authenticate verifies the access token in r and returns its claims. The error wraps token.ErrStale if h.accounts is
// set and the account has changed, or the session has ended, since the token was issued.
func (h *handler) authenticate(r *http.Request) (*token.Claims, error) {
	claims, err := h.verifier.Authenticate(r)
	if err != nil {
		return nil, err
	}
	return claims, token.Challenge(h.current(r.Context(), claims))
}

func (h *handler) current(ctx context.Context, claims *token.Claims) error {
	if h.accounts == nil {
		return nil
	}
	_, err := h.accounts.Current(ctx, claims)
	return err
}

// measure handles a request to validate a token, and records the result in a metric.
func (h *handler) measure(w http.ResponseWriter, r *http.Request) error {
	err := h.validate(w, r)
	status := http.StatusOK
	if err != nil {
		status = problem.Status(err)
	}
	telemetry.Validation(r.Context(), status, reason(err))
	return err
}

// reason returns the value of the metric label "reason" for a validation that returned err.
func reason(err error) telemetry.ValidationReason {
	switch {
	case err == nil:
		return telemetry.ValidationGood
	case errors.Is(err, token.ErrExpired):
		return telemetry.ValidationExpired
	case errors.Is(err, token.ErrInvalid):
		return telemetry.ValidationInvalid
	case errors.Is(err, token.ErrStale):
		return telemetry.ValidationStale
	case errors.Is(err, problem.InsufficientScope):
		return telemetry.ValidationScope
	case errors.Is(err, problem.Unauthenticated):
		return telemetry.ValidationMissing
	case errors.Is(err, problem.BadRequest):
		return telemetry.ValidationMalformed
	}
	return telemetry.ValidationUnavailable
}

// scopeToken matches a scope (RFC 6749 §3.3) with at most 128 characters.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,128}$`)

// validate verifies the access token in r and responds with the token's claims. It accepts any method, because a
// proxy forwards the method of the client's request.
func (h *handler) validate(w http.ResponseWriter, r *http.Request) error {
	claims, err := h.authenticate(r)
	if err != nil {
		return err
	}
	scopes, err := demanded(r)
	if err != nil {
		return err
	}
	// A token without scopes permits only the user's own account (see login). No other service may accept it.
	if claims.Scope == "" {
		return problem.InsufficientScope.With("the user must sign in with a second factor").
			Header("WWW-Authenticate", `Bearer realm="strongroom", error="insufficient_scope"`)
	}
	if err := claims.Demand(scopes...); err != nil {
		return err
	}
	// Set all four X-Auth headers, even if a value is empty. A proxy copies them to the client's request, where they
	// replace any headers that the client has forged.
	header := w.Header()
	header.Set("X-Auth-User-Id", claims.Subject)
	header.Set("X-Auth-Username", claims.Username)
	header.Set("X-Auth-Roles", strings.Join(claims.Roles, " "))
	header.Set("X-Auth-Scope", claims.Scope)
	respond.Body(w, http.StatusOK, "application/json", claims.Payload())
	return nil
}

// demanded returns the scopes that the token must have. The operator of a proxy lists them in the query string, in
// parameters named "scope".
func demanded(r *http.Request) ([]string, error) {
	if r.URL.RawQuery == "" || hasClientQuery(r) {
		return nil, nil
	}
	query, err := request.Query(r)
	if err != nil {
		return nil, err
	}
	// Reject every parameter except "scope". A parameter with a different name might be a misspelled "scope", and
	// ignoring a required scope would be unsafe.
	for name := range query {
		if name != "scope" {
			return nil, problem.BadRequest.With("the query string may contain only scope parameters")
		}
	}
	for _, scope := range query["scope"] {
		if !scopeToken.MatchString(scope) {
			return nil, problem.BadRequest.With("each scope parameter in the query string must contain exactly one valid scope")
		}
	}
	return query["scope"], nil
}

// introspection is the response body for a valid token (RFC 7662 §2.2).
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
	AuthTime  int64    `json:"auth_time,omitempty"` // RFC 9470 §6.2
	ACR       string   `json:"acr,omitempty"`       // RFC 9470 §6.2
}

// introspect reports whether the token in the form is active and, if so, returns its claims (RFC 7662). The caller
// must authenticate with its own access token.
func (h *handler) introspect(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.authenticate(r); err != nil {
		return err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return problem.UnsupportedType.With("send the token in a form with the content type application/x-www-form-urlencoded")
	}
	body, err := request.ReadBody(w, r, maxForm)
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return problem.BadRequest.Because(err, "the body must be a valid form, such as token=…")
	}
	values := form["token"]
	if len(values) != 1 || values[0] == "" {
		return problem.BadRequest.With("the form must contain exactly one token parameter, with a value")
	}
	claims, err := h.verifier.Verify(values[0])
	if err == nil {
		err = h.current(r.Context(), claims)
	}
	if errors.Is(err, problem.Unavailable) {
		return err // the account lookup failed, so it is unknown whether the token is active
	}
	// A token without scopes is not active, because no other service may accept it (see validate). A service might check
	// only active. The response must not reveal why the token is not active (RFC 7662 §2.2).
	if err != nil || claims.Scope == "" {
		return respond.JSON(w, http.StatusOK, map[string]bool{"active": false})
	}
	var authTime int64 // omitted if an earlier version issued the token
	if !claims.AuthTime.IsZero() {
		authTime = claims.AuthTime.Unix()
	}
	return respond.JSON(w, http.StatusOK, introspection{true, "Bearer", claims.Issuer, claims.Audience, claims.Subject,
		claims.ExpiresAt.Unix(), claims.IssuedAt.Unix(), claims.ID, claims.ClientID, claims.Username, claims.Scope, claims.Roles,
		authTime, claims.ACR})
}

// jwks responds with the public keys as a JWK Set (RFC 7517 §5), so that other services can verify tokens without a
// request to this function for each token.
func (h *handler) jwks(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", keysMaxAge)
	_, _ = w.Write(h.verifier.JWKS()) // an error means that the client has disconnected
	return nil
}
