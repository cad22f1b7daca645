package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// compact is the JWS compact serialization (RFC 7515 §7.1) and nothing around or inside it: with a line break let
// through, one token would have many spellings.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// headerNames are the registered header parameters (RFC 7515 §4.1) and b64 (RFC 7797).
var headerNames = []string{"alg", "jku", "jwk", "kid", "x5u", "x5c", "x5t", "x5t#S256", "typ", "cty", "crit", "b64"}

// Open checks the signature of a JWS in compact form and returns the typ of its header and its payload. It is stricter
// than RFC 7515 wants it, and than the JWT library is:
//
//   - A JWS has one spelling: no white space, no padding, no stray bits.
//   - The header must be unambiguous JSON and name its key. Keys that it brings along (jku, jwk, x5u, x5c) are ignored.
//   - The key decides on the algorithm; the header must agree.
//   - Critical extensions are refused, since none is known, and so are unencoded payloads (RFC 7797).
func (k *Keys) Open(raw string) (kind string, payload []byte, err error) {
	if !compact.MatchString(raw) {
		return "", nil, errors.New("it is not a JWS in compact form")
	}
	signed, encodedSignature := cutLast(raw)
	encodedHeader, encodedPayload := cutLast(signed)
	strict := base64.RawURLEncoding.Strict()
	header, errHeader := strict.DecodeString(encodedHeader)
	payload, errPayload := strict.DecodeString(encodedPayload)
	signature, errSignature := strict.DecodeString(encodedSignature)
	if err := errors.Join(errHeader, errPayload, errSignature); err != nil {
		return "", nil, err
	}
	h, err := parseHeader(header)
	if err != nil {
		return "", nil, fmt.Errorf("header: %w", err)
	}
	key, known := k.byID[h.KeyID]
	if !known {
		return "", nil, errors.New("the kid is not known")
	}
	if h.Algorithm != key.method.Alg() {
		return "", nil, fmt.Errorf("alg is %q, but the key's is %s", h.Algorithm, key.method.Alg())
	}
	if err := key.method.Verify(signed, signature, key.public); err != nil {
		return "", nil, err
	}
	return h.Type, payload, nil
}

// header is the part of a JOSE header that matters.
type header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid"`
	Type      string          `json:"typ"`
	Critical  json.RawMessage `json:"crit"`
	Base64    json.RawMessage `json:"b64"`
}

func parseHeader(data []byte) (h header, err error) {
	if err := checkObject(data, headerNames, []string{"alg", "kid"}); err != nil {
		return h, err
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, err
	}
	if h.Critical != nil || h.Base64 != nil {
		return h, errors.New("critical extensions are not supported")
	}
	return h, nil
}

// cutLast cuts s around its last dot; there must be one.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '.')
	return s[:i], s[i+1:]
}
