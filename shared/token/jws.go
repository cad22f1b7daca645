package token

import (
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// compact matches a JWS in compact serialization (RFC 7515, section 7.1). It does not match line breaks, so that
// each token has only one valid encoding.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Open verifies the signature of a JWS in compact serialization, more strictly than RFC 7515 requires. It returns
// the header's typ parameter and the payload.
func (k *Keys) Open(raw string) (kind string, payload []byte, err error) {
	if !compact.MatchString(raw) {
		return "", nil, errors.New("the token is not a JWS in compact serialization")
	}
	signed, encodedSignature := cutLast(raw)
	encodedHeader, encodedPayload := cutLast(signed)
	// Reject padding and nonzero trailing bits, so that each JWS has only one valid encoding.
	strict := base64.RawURLEncoding.Strict()
	header, errHeader := strict.DecodeString(encodedHeader)
	payload, errPayload := strict.DecodeString(encodedPayload)
	signature, errSignature := strict.DecodeString(encodedSignature)
	if err := errors.Join(errHeader, errPayload, errSignature); err != nil {
		return "", nil, err
	}
	h, err := parseHeader(header)
	if err != nil {
		return "", nil, fmt.Errorf("parse the JOSE header: %w", err)
	}
	// Ignore keys that the header contains or refers to (jku, jwk, x5u, x5c), because an attacker can forge the
	// header.
	key, known := k.byID[h.KeyID]
	if !known {
		return "", nil, errors.New("unknown kid")
	}
	if h.Algorithm != key.method.Alg() {
		return "", nil, fmt.Errorf("the header's alg is %q, but the key requires %s", h.Algorithm, key.method.Alg())
	}
	if err := key.method.Verify(signed, signature, key.public); err != nil {
		return "", nil, err
	}
	if key.method == jwt.SigningMethodES256 && !lowS(signature) {
		return "", nil, errors.New("the signature is not in the form that Signer creates")
	}
	return h.Type, payload, nil
}

// halfOrder is half the order of the curve P-256, rounded down.
var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1)

// lowS reports whether s is at most half the order of the curve in an ES256 signature (r, s). If (r, s) is valid, then
// (r, order-s) is also valid. Open accepts only the signature with the lower value, so that each JWS has only one valid
// encoding.
func lowS(signature []byte) bool {
	return new(big.Int).SetBytes(signature[len(signature)/2:]).Cmp(halfOrder) <= 0
}

// header contains the JOSE header parameters that Open uses.
type header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Type      string          `json:"typ,omitempty"`
	Critical  json.RawMessage `json:"crit,omitempty"`
	Base64    json.RawMessage `json:"b64,omitempty"`
}

func parseHeader(data []byte) (h header, err error) {
	if err := strictjson.DecodeKnown(data, &h); err != nil {
		return h, err
	}
	// Open supports neither critical extensions nor unencoded payloads (RFC 7797).
	if h.Critical != nil || h.Base64 != nil {
		return h, errors.New("the crit and b64 header parameters are not supported")
	}
	return h, nil
}

// cutLast splits s at the last dot. s must contain a dot.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '.')
	return s[:i], s[i+1:]
}
