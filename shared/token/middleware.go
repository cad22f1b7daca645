package token

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
)

// realm is the beginning of every WWW-Authenticate challenge: the authentication scheme and the name of the protection
// space (RFC 9110, section 11.5).
const realm = `Bearer realm="strongroom"`

type callerKey struct{}

// Caller returns the claims that Require has added to ctx, or nil if ctx contains no claims.
func Caller(ctx context.Context) *Claims {
	claims, _ := ctx.Value(callerKey{}).(*Claims)
	return claims
}

// Require returns a handler that calls next if the request's bearer token is valid and has all scopes. Otherwise,
// the handler responds with a challenge (RFC 6750, section 3).
func (v *Verifier) Require(next http.Handler, scopes ...string) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		claims, err := v.Authenticate(r)
		if err != nil {
			return err
		}
		if err := claims.Demand(scopes...); err != nil {
			return err
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, claims)))
		return nil
	})
}

// Authenticate returns the claims of the bearer token in r, and records the user in the origin of the request. Every
// error is a problem.Problem with a challenge.
func (v *Verifier) Authenticate(r *http.Request) (*Claims, error) {
	raw, err := bearer(r)
	if err != nil {
		return nil, err
	}
	claims, err := v.Verify(raw)
	if err != nil {
		return nil, Challenge(err)
	}
	request.OriginOf(r.Context()).UserID = claims.Subject
	return claims, nil
}

// Challenge adds the WWW-Authenticate header (RFC 9110, section 15.5.2) to an error that requires the client to
// sign in again. It converts ErrInvalid, ErrExpired and ErrStale to a problem.Unauthenticated. It returns any other
// error unchanged.
func Challenge(err error) error {
	for _, known := range []error{ErrInvalid, ErrExpired, ErrStale} {
		if errors.Is(err, known) {
			// The response contains only fixed text, because the details in err are only for the log.
			return problem.Unauthenticated.Because(err, known.Error()).
				Header("WWW-Authenticate", fmt.Sprintf(`%s, error="invalid_token", error_description=%q`, realm, known))
		}
	}
	var ended *problem.Problem
	if errors.Is(err, problem.SessionEnded) && errors.As(err, &ended) {
		return ended.Header("WWW-Authenticate", realm)
	}
	return err
}

// Demand returns a problem.InsufficientScope with a challenge, unless the token has all of the scopes.
func (c *Claims) Demand(scopes ...string) error {
	for _, scope := range scopes {
		if !c.HasScope(scope) {
			return problem.InsufficientScope.With("the access token must have the scope %s", scope).
				Header("WWW-Authenticate", fmt.Sprintf(`%s, error="insufficient_scope", scope=%q`, realm, strings.Join(scopes, " ")))
		}
	}
	return nil
}

// maxAuthAge is how long ago a user may have signed in if a request requires a recent sign-in.
const maxAuthAge = 10 * time.Minute

// DemandRecent returns a problem.SignInTooOld with a challenge (RFC 9470, section 3), unless the user signed in at most
// maxAuthAge before now. A token of an earlier version does not contain the time of the sign-in, so DemandRecent
// returns an error for it.
func (c *Claims) DemandRecent(now time.Time) error {
	if now.Sub(c.AuthTime) <= maxAuthAge {
		return nil
	}
	detail := fmt.Sprintf("sign in again: this request requires a sign-in in the last %.0f minutes", maxAuthAge.Minutes())
	return problem.SignInTooOld.With("%s", detail).Header("WWW-Authenticate", fmt.Sprintf(
		`%s, error="insufficient_user_authentication", error_description=%q, max_age="%.0f"`, realm, detail, maxAuthAge.Seconds()))
}

// bearer returns the token in the Authorization header (RFC 6750, section 2.1). It does not accept a token in a
// form or query string, because such a token can end up in logs.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return "", badHeader("send only one Authorization header")
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
