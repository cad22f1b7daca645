package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxToken bounds a token before anything of it is decoded, in bytes.
	maxToken = 8 << 10
	// leeway for the clocks of login and verifier to differ; RFC 7519 §4.1.4 allows "a few minutes" at most.
	leeway = 10 * time.Second
	// mediaType of an access token (RFC 9068 §2.1), without "application/".
	mediaType = "at+jwt"
)

// What is wrong with a token. A client is told no more than this.
var (
	ErrInvalid = errors.New("the access token is not valid")
	ErrExpired = errors.New("the access token has expired")
)

var errEmptySetting = errors.New("TOKEN_ISSUER and TOKEN_AUDIENCE must not be empty")

// Verifier checks access tokens. It is safe for concurrent use.
type Verifier struct {
	keys   *Keys
	parser *jwt.Parser
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
	return &Verifier{keys, jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256", "EdDSA", "RS256"}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(now),
	)}, nil
}

// compact is the JWS compact serialization (RFC 7515 §7.1) and nothing around or inside it: with a line break let
// through, one token would have many spellings.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Verify returns the claims of a token that is good now. The error is ErrExpired or ErrInvalid; what it wraps besides
// is for the log.
func (v *Verifier) Verify(raw string) (*Claims, error) {
	if len(raw) > maxToken {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, maxToken)
	}
	if !compact.MatchString(raw) {
		return nil, fmt.Errorf("%w: it is not a JWS in compact form", ErrInvalid)
	}
	if err := checkHeader(raw[:strings.IndexByte(raw, '.')]); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrInvalid, err)
	}
	claims := new(Claims)
	switch _, err := v.parser.ParseWithClaims(raw, claims, v.key); {
	case err == nil:
		return claims, nil
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) || !errors.Is(err, jwt.ErrTokenExpired):
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrExpired, err)
	}
}

// headerNames are the registered header parameters (RFC 7515 §4.1) and b64 (RFC 7797).
var headerNames = []string{"alg", "jku", "jwk", "kid", "x5u", "x5c", "x5t", "x5t#S256", "typ", "cty", "crit", "b64"}

// checkHeader refuses what the JWT library lets pass: other kinds of token, critical extensions (we know none), and
// ambiguous JSON. Keys that the header brings along (jku, jwk, x5u, x5c) are ignored.
func checkHeader(segment string) error {
	data, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return err
	}
	if err := checkObject(data, headerNames, []string{"alg", "kid", "typ"}); err != nil {
		return err
	}
	var header struct {
		Type     string          `json:"typ"`
		Critical json.RawMessage `json:"crit"`
		Base64   json.RawMessage `json:"b64"`
	}
	if err := json.Unmarshal(data, &header); err != nil {
		return err
	}
	if !slices.Contains([]string{mediaType, "application/" + mediaType}, strings.ToLower(header.Type)) {
		return fmt.Errorf("typ is %q, not %s", header.Type, mediaType)
	}
	if header.Critical != nil || header.Base64 != nil {
		return errors.New("critical extensions are not supported")
	}
	return nil
}

// key finds the key that a token names, and holds the token to that key's algorithm.
func (v *Verifier) key(t *jwt.Token) (any, error) {
	id, _ := t.Header["kid"].(string)
	key, known := v.keys.byID[id]
	if !known {
		return nil, errors.New("the kid is not known")
	}
	if t.Method.Alg() != key.method.Alg() {
		return nil, fmt.Errorf("alg is %s, but the key's is %s", t.Method.Alg(), key.method.Alg())
	}
	return key.public, nil
}
