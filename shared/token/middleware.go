package token

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// realm is the protection space of every challenge (RFC 9110 §11.5).
const realm = `Bearer realm="strongroom"`

type callerKey struct{}

// Caller returns the claims of the verified token that the request came with, nil outside of Require.
func Caller(ctx context.Context) *Claims {
	claims, _ := ctx.Value(callerKey{}).(*Claims)
	return claims
}

// WithCaller returns a context whose Caller is claims.
func WithCaller(ctx context.Context, claims *Claims) context.Context {
	return context.WithValue(ctx, callerKey{}, claims)
}

// Require lets requests pass to next that bear a good token with all of scopes; the others get the problem document
// and the challenge of RFC 6750 §3: 401 without or with a bad token, 403 without a scope, 400 for a bad header.
func (v *Verifier) Require(next http.Handler, scopes ...string) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		claims, err := v.Authenticate(r)
		if err != nil {
			return err
		}
		if err := claims.Demand(scopes...); err != nil {
			return err
		}
		next.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), claims)))
		return nil
	})
}

// Authenticate returns the claims of the request's bearer token, or a problem with its challenge.
func (v *Verifier) Authenticate(r *http.Request) (*Claims, error) {
	raw, err := bearer(r)
	if err != nil {
		return nil, err
	}
	claims, err := v.Verify(raw)
	if err != nil {
		detail := ErrInvalid.Error()
		if errors.Is(err, ErrExpired) {
			detail = ErrExpired.Error()
		}
		return nil, Refuse(err, detail)
	}
	return claims, nil
}

// Refuse returns the answer to a token that is not good, for the reason that detail tells the client; cause, which may
// be nil, is for the log.
func Refuse(cause error, detail string) *problem.Problem {
	return problem.Unauthenticated.Because(cause, detail).
		Header("WWW-Authenticate", fmt.Sprintf(`%s, error="invalid_token", error_description=%q`, realm, detail))
}

// Demand returns nil if the token carries all of scopes, else a problem with its challenge.
func (c *Claims) Demand(scopes ...string) error {
	for _, scope := range scopes {
		if !c.HasScope(scope) {
			return problem.InsufficientScope.With("the scope %s is needed", scope).
				Header("WWW-Authenticate", fmt.Sprintf(`%s, error="insufficient_scope", scope=%q`, realm, strings.Join(scopes, " ")))
		}
	}
	return nil
}

// bearer returns the token of the Authorization header (RFC 6750 §2.1). The other two ways to send one, in a form or
// in the query string, are not supported: they end up in logs.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return "", badHeader("there is more than one Authorization header")
	}
	scheme, raw, _ := strings.Cut(strings.Join(values, ""), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", problem.Unauthenticated.With("send an access token in the Authorization header, as a Bearer token").
			Header("WWW-Authenticate", realm)
	}
	if raw = strings.TrimLeft(raw, " "); raw == "" {
		return "", badHeader("the Authorization header has no token")
	}
	return raw, nil
}

func badHeader(detail string) error {
	return problem.BadRequest.With("%s", detail).
		Header("WWW-Authenticate", fmt.Sprintf(`%s, error="invalid_request", error_description=%q`, realm, detail))
}
