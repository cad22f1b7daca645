package token

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// maxToken is the maximum length of a token, in bytes. Verify checks the length before it decodes any part of the
	// token.
	maxToken = 8 << 10
	// leeway is the largest accepted difference between the clocks of a token's signer and verifier. RFC 7519, section
	// 4.1.4, suggests at most a few minutes.
	leeway = 10 * time.Second
	// mediaType is the media type of an access token (RFC 9068, section 2.1), without the prefix "application/".
	mediaType = "at+jwt"
	// remembered is the maximum number of verified tokens in a Verifier's cache. Each token takes about 1 KiB of
	// memory, so a full cache takes about 4 MiB.
	remembered = 4096
)

// The errors for access tokens that are not accepted.
var (
	ErrInvalid = errors.New("the access token is invalid")
	ErrExpired = errors.New("the access token has expired")
	// ErrStale reports that, after the token was issued, the account was disabled or deleted, its role or password was
	// changed, or the token's session ended. The error comes from package accounts. Verify never returns it.
	ErrStale = errors.New("the session has ended or the account has changed since the token was issued")
)

var errEmptySetting = errors.New("TOKEN_ISSUER and TOKEN_AUDIENCE must not be empty")

// Verifier checks access tokens. It is safe for concurrent use.
type Verifier struct {
	keys      *Keys
	validator *jwt.Validator
	// verified caches the claims of tokens with a valid signature, because a client sends the same token many
	// times, and verifying its signature is slow.
	verified *lru.Cache[[sha256.Size]byte, *Claims]
}

// NewVerifier returns a Verifier that accepts tokens that are signed with one of the keys and have the given
// issuer and audience.
func NewVerifier(keys *Keys, issuer, audience string) (*Verifier, error) {
	return newVerifier(keys, issuer, audience, time.Now)
}

func newVerifier(keys *Keys, issuer, audience string, now func() time.Time) (*Verifier, error) {
	// With an empty issuer, the JWT library would not check the iss claim. With an empty audience, it would reject
	// every token that Signer issues.
	if issuer == "" || audience == "" {
		return nil, errEmptySetting
	}
	verified, err := lru.New[[sha256.Size]byte, *Claims](remembered)
	if err != nil {
		return nil, err
	}
	return &Verifier{keys, jwt.NewValidator(
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(now),
	), verified}, nil
}

// JWKS returns the public keys as an encoded JWK Set (RFC 7517, section 5).
func (v *Verifier) JWKS() []byte { return v.keys.JWKS() }

// Verify returns the claims of a valid encoded token. The caller must not change the claims, because other callers
// share them. The error wraps ErrExpired or ErrInvalid.
func (v *Verifier) Verify(raw string) (*Claims, error) {
	if len(raw) > maxToken {
		return nil, fmt.Errorf("%w: the token is longer than %d bytes", ErrInvalid, maxToken)
	}
	// Hash the whole token, so that a modified token is never found in the cache.
	key := sha256.Sum256([]byte(raw))
	claims, known := v.verified.Get(key)
	if !known {
		var err error
		if claims, err = v.open(raw); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	// Also validate claims from the cache, because the token might have expired since they were cached.
	switch err := v.validator.Validate(claims); {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, fmt.Errorf("%w: %w", ErrExpired, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !known {
		v.verified.Add(key, claims)
	}
	return claims, nil
}

// open verifies the token's signature and checks the typ header parameter. It then decodes the token's claims.
func (v *Verifier) open(raw string) (*Claims, error) {
	kind, payload, err := v.keys.Open(raw)
	if err != nil {
		return nil, err
	}
	if kind = strings.ToLower(kind); kind != mediaType && kind != "application/"+mediaType {
		return nil, fmt.Errorf("the header's typ is %q, want %s", kind, mediaType)
	}
	claims := new(Claims)
	if err := claims.UnmarshalJSON(payload); err != nil {
		return nil, fmt.Errorf("parse claims: %w", err)
	}
	return claims, nil
}
