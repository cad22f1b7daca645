package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// compact matches a JWS in compact serialization (RFC 7515, section 7.1). It does not match extra characters, such as
// line breaks, because they would allow the same token to be written in many ways.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// Open verifies the signature of a JWS in compact serialization. It returns the header's typ parameter and the
// payload. Open is stricter than RFC 7515 and the JWT library:
//
//   - Each JWS can be written in only one way. White space, padding and nonzero trailing bits are invalid.
//   - The header must be unambiguous JSON, and its kid must name a key in k. Open ignores keys that the header
//     contains or refers to (jku, jwk, x5u, x5c).
//   - The key determines the algorithm. The header's alg parameter must match the key.
//   - Critical extensions and unencoded payloads (RFC 7797) are invalid, because Open does not support them.
func (k *Keys) Open(raw string) (kind string, payload []byte, err error) {
	if !compact.MatchString(raw) {
		return "", nil, errors.New("the token is not a JWS in compact serialization")
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
		return "", nil, fmt.Errorf("parse header: %w", err)
	}
	key, known := k.byID[h.KeyID]
	if !known {
		return "", nil, errors.New("unknown kid")
	}
	if h.Algorithm != key.method.Alg() {
		return "", nil, fmt.Errorf("alg is %q, but the key requires %s", h.Algorithm, key.method.Alg())
	}
	if err := key.method.Verify(signed, signature, key.public); err != nil {
		return "", nil, err
	}
	return h.Type, payload, nil
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
	if h.Critical != nil || h.Base64 != nil {
		return h, errors.New("the header parameters crit and b64 are not supported")
	}
	return h, nil
}

// cutLast splits s at the last dot. s must contain a dot.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '.')
	return s[:i], s[i+1:]
}
