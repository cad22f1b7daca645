package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Subject is the user to whom a token is issued.
type Subject struct {
	ID       string
	Username string
	Roles    []string
	Version  int // the user's token version
	// Session, AuthTime and ACR describe the sign-in (see Claims).
	Session  string
	AuthTime time.Time
	ACR      string
}

// Signer issues access tokens.
type Signer struct {
	key      *ecdsa.PrivateKey
	keyID    string
	issuer   string
	audience string
	lifetime time.Duration
	now      func() time.Time
}

// LoadSigner reads a private JWK (EC, P-256) from the file at path and returns a Signer.
func LoadSigner(path, issuer, audience string, lifetime time.Duration, now func() time.Time) (*Signer, error) {
	// The issuer and the audience limit where a token is valid.
	if issuer == "" || audience == "" {
		return nil, errEmptySetting
	}
	// The times in a token are whole seconds.
	if lifetime < time.Second {
		return nil, errors.New("TOKEN_LIFETIME: must be at least 1 second")
	}
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_SIGNING_KEY_FILE: %w", err)
	}
	key, public, err := parseJWK(data)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_SIGNING_KEY_FILE: load %s: %w", path, err)
	}
	if key.Algorithm != jwt.SigningMethodES256.Alg() {
		return nil, fmt.Errorf("TOKEN_SIGNING_KEY_FILE: load %s: the key is for %s, want ES256", path, key.Algorithm)
	}
	secret, err := decode(key.D, 32)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_SIGNING_KEY_FILE: load %s: the key is not a valid private key", path)
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), secret)
	if err != nil || !private.PublicKey.Equal(public.public) {
		return nil, fmt.Errorf("TOKEN_SIGNING_KEY_FILE: load %s: the private key does not match its public key", path)
	}
	return &Signer{private, key.ID, issuer, audience, lifetime, now}, nil
}

// Sign issues an access token (RFC 9068) with the scopes that the subject's roles grant. It returns the encoded token
// and the token's claims.
func (s *Signer) Sign(subject Subject) (raw string, claims *Claims, err error) {
	now := s.now().Truncate(time.Second)
	claims = &Claims{
		Issuer:    s.issuer,
		Audience:  []string{s.audience},
		Subject:   subject.ID,
		ExpiresAt: now.Add(s.lifetime),
		IssuedAt:  now,
		ID:        uuid.NewString(),
		ClientID:  ClientID,
		Username:  subject.Username,
		Roles:     subject.Roles,
		Scope:     ScopesOf(subject.Roles),
		Version:   subject.Version,
		Session:   subject.Session,
		AuthTime:  subject.AuthTime,
		ACR:       subject.ACR,
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	unsigned.Header = map[string]any{"alg": jwt.SigningMethodES256.Alg(), "kid": s.keyID, "typ": mediaType}
	text, err := unsigned.SigningString()
	if err != nil {
		return "", nil, fmt.Errorf("encode access token: %w", err)
	}
	signature, err := sign(text, s.key)
	if err != nil {
		return "", nil, fmt.Errorf("sign access token: %w", err)
	}
	return text + "." + unsigned.EncodeSegment(signature), claims, nil
}

// sign returns the ES256 signature of text for which lowS reports true.
func sign(text string, key *ecdsa.PrivateKey) ([]byte, error) {
	signature, err := jwt.SigningMethodES256.Sign(text, key)
	if err == nil && !lowS(signature) {
		s := signature[len(signature)/2:]
		new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
	}
	return signature, err
}
