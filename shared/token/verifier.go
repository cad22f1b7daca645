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
	// maxToken bounds a token before anything of it is decoded, in bytes.
	maxToken = 8 << 10
	// leeway for the clocks of login and verifier to differ; RFC 7519 §4.1.4 allows "a few minutes" at most.
	leeway = 10 * time.Second
	// mediaType of an access token (RFC 9068 §2.1), without "application/".
	mediaType = "at+jwt"
	// remembered is how many verified tokens a verifier keeps; each takes about 1 KiB.
	remembered = 4096
)

// What is wrong with a token. A client is told no more than this.
var (
	ErrInvalid = errors.New("the access token is not valid")
	ErrExpired = errors.New("the access token has expired")
)

var errEmptySetting = errors.New("TOKEN_ISSUER and TOKEN_AUDIENCE must not be empty")

// Verifier checks access tokens. It is safe for concurrent use.
type Verifier struct {
	keys      *Keys
	validator *jwt.Validator
	// verified has the claims of tokens whose signature was right, by the hash of the whole token: a client sends the
	// same token many times in its short life, and a signature is most of what verifying costs. The key is every byte
	// of the token, so no variant of it can pass for it.
	verified *lru.Cache[[sha256.Size]byte, *Claims]
}

// NewVerifier returns a verifier of tokens that were issued by issuer for audience and signed with one of keys. Empty
// settings are refused: the JWT library would take them as "do not check".
func NewVerifier(keys *Keys, issuer, audience string) (*Verifier, error) {
	return newVerifier(keys, issuer, audience, time.Now)
}

func newVerifier(keys *Keys, issuer, audience string, now func() time.Time) (*Verifier, error) {
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

// Verify returns the claims of a token that is good now; they are shared and must not be changed. The error is
// ErrExpired or ErrInvalid; what it wraps besides is for the log. Nothing that the token claims is looked at before its
// signature has been checked.
func (v *Verifier) Verify(raw string) (*Claims, error) {
	if len(raw) > maxToken {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, maxToken)
	}
	key := sha256.Sum256([]byte(raw))
	claims, known := v.verified.Get(key)
	if !known {
		var err error
		if claims, err = v.open(raw); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	// Each time: what was good when it was remembered may have expired.
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

// open checks the signature and reads the claims.
func (v *Verifier) open(raw string) (*Claims, error) {
	kind, payload, err := v.keys.Open(raw)
	if err != nil {
		return nil, err
	}
	if kind = strings.ToLower(kind); kind != mediaType && kind != "application/"+mediaType {
		return nil, fmt.Errorf("typ is %q, not %s", kind, mediaType)
	}
	claims := new(Claims)
	if err := claims.UnmarshalJSON(payload); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return claims, nil
}
