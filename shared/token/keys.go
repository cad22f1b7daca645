package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"

	"github.com/golang-jwt/jwt/v5"

	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// The limits for a key set.
const (
	maxKeysFile = 256 << 10 // bytes; enough for more keys than a rotation ever needs
	minRSABits  = 2048      // shorter keys are weak
	maxRSABits  = 8192      // longer keys make verification too slow
)

// Keys is a set of public keys (RFC 7517), indexed by key ID. The set never changes after it has been parsed.
type Keys struct {
	byID map[string]verificationKey
	set  []byte
}

// verificationKey is a public key together with the only algorithm that is allowed for it. The key determines the
// algorithm, because the header of a forged token could name a weaker algorithm.
type verificationKey struct {
	method jwt.SigningMethod
	public crypto.PublicKey
}

// jwk is a JSON Web Key (RFC 7517; RFC 7518, section 6; RFC 8037, section 2).
type jwk struct {
	KeyType   string   `json:"kty"`
	Use       string   `json:"use,omitempty"`
	Ops       []string `json:"key_ops,omitempty"`
	Algorithm string   `json:"alg,omitempty"`
	ID        string   `json:"kid,omitempty"`
	Curve     string   `json:"crv,omitempty"`
	X         string   `json:"x,omitempty"`
	Y         string   `json:"y,omitempty"`
	N         string   `json:"n,omitempty"`
	E         string   `json:"e,omitempty"`
	D         string   `json:"d,omitempty"`
}

// privateMembers lists the JWK members that contain secret parts of a key. A public key set must not contain any of
// them.
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// LoadKeys reads a public JWK Set from the file at path. During a key rotation, the set contains more than one key.
func LoadKeys(path string) (*Keys, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("load public keys: %w", err)
	}
	keys, err := ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("load public keys from %s: %w", path, err)
	}
	return keys, nil
}

// ParseKeys parses a public JWK Set. It rejects an empty set, two keys with the same ID, and a key that is
// private, weak, unsupported or not meant for signatures.
func ParseKeys(data []byte) (*Keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := strictjson.DecodeKnown(data, &set); err != nil {
		return nil, err
	}
	keys := &Keys{byID: map[string]verificationKey{}}
	var public []jwk
	for i, raw := range set.Keys {
		key, parsed, err := parsePublic(raw)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if _, twice := keys.byID[key.ID]; twice {
			return nil, fmt.Errorf("key %d: another key has the same kid", i)
		}
		keys.byID[key.ID] = parsed
		public = append(public, key)
	}
	if len(public) == 0 {
		return nil, errors.New("the key set is empty")
	}
	var err error
	keys.set, err = json.Marshal(map[string][]jwk{"keys": public})
	return keys, err
}

// JWKS returns the keys as a JWK Set that contains only the public key parameters.
func (k *Keys) JWKS() []byte { return slices.Clone(k.set) }

func parsePublic(raw []byte) (jwk, verificationKey, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return jwk{}, verificationKey{}, err
	}
	for _, name := range privateMembers {
		if _, there := members[name]; there {
			return jwk{}, verificationKey{}, fmt.Errorf("the key must be public, but it contains the private key parameter %q", name)
		}
	}
	return parseJWK(raw)
}

// parseJWK parses a JWK and checks its public key parameters. In the returned JWK, the alg and use members are always
// set, and the kid member defaults to the key's thumbprint.
func parseJWK(raw []byte) (jwk, verificationKey, error) {
	var key jwk
	if err := strictjson.DecodeKnown(raw, &key); err != nil {
		return key, verificationKey{}, err
	}
	if key.Use != "" && key.Use != "sig" {
		return key, verificationKey{}, fmt.Errorf(`the "use" parameter is %q, want "sig"`, key.Use)
	}
	for _, op := range key.Ops {
		if op != "verify" && (op != "sign" || key.D == "") {
			return key, verificationKey{}, fmt.Errorf("key_ops must not contain %q", op)
		}
	}
	parsed, err := key.public()
	if err != nil {
		return key, verificationKey{}, err
	}
	if alg := parsed.method.Alg(); key.Algorithm != "" && key.Algorithm != alg {
		return key, verificationKey{}, fmt.Errorf("the key's alg is %q, want %s", key.Algorithm, alg)
	}
	key.Algorithm, key.Use = parsed.method.Alg(), "sig"
	if key.ID == "" {
		key.ID = key.thumbprint()
	}
	return key, parsed, nil
}

// public converts a JWK's public parameters to a verificationKey. It returns an error if the key is unsupported,
// malformed or weak.
func (k jwk) public() (verificationKey, error) {
	switch {
	case k.KeyType == "EC" && k.Curve == "P-256":
		x, errX := decode(k.X, 32)
		y, errY := decode(k.Y, 32)
		if err := errors.Join(errX, errY); err != nil {
			return verificationKey{}, err
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		return verificationKey{jwt.SigningMethodES256, public}, err
	case k.KeyType == "OKP" && k.Curve == "Ed25519":
		x, err := decode(k.X, ed25519.PublicKeySize)
		return verificationKey{jwt.SigningMethodEdDSA, ed25519.PublicKey(x)}, err
	case k.KeyType == "RSA":
		n, errN := decode(k.N, 0)
		e, errE := decode(k.E, 0)
		if err := errors.Join(errN, errE); err != nil {
			return verificationKey{}, err
		}
		modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
		if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
			return verificationKey{}, fmt.Errorf("the RSA key has %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
		if exponent.BitLen() > 31 || exponent.Int64() < 65537 || exponent.Bit(0) == 0 || modulus.Bit(0) == 0 {
			return verificationKey{}, errors.New("the RSA key has an unsafe modulus or exponent")
		}
		return verificationKey{jwt.SigningMethodRS256, &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}}, nil
	}
	return verificationKey{}, fmt.Errorf("unsupported key type %q with curve %q", k.KeyType, k.Curve)
}

// thumbprint returns the key's thumbprint (RFC 7638) in base64url. The thumbprint is the SHA-256 hash of the required
// members in lexical order.
func (k jwk) thumbprint() string {
	var canonical string
	switch k.KeyType {
	case "EC":
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Curve, k.X, k.Y)
	case "OKP":
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"OKP","x":%q}`, k.Curve, k.X)
	case "RSA":
		canonical = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, k.E, k.N)
	}
	sum := sha256.Sum256([]byte(canonical))
	return encode(sum[:])
}

// GenerateKey generates an ES256 key pair. It returns the private JWK for the login function, and a JWK Set with
// the public key for the functions that verify tokens.
func GenerateKey() (private, jwks []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate a signing key: %w", err)
	}
	point, err := key.PublicKey.Bytes() // 0x04, x, y
	if err != nil {
		return nil, nil, fmt.Errorf("encode the public key: %w", err)
	}
	secret, err := key.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("encode the private key: %w", err)
	}
	k := jwk{KeyType: "EC", Curve: "P-256", Algorithm: "ES256", Use: "sig", X: encode(point[1:33]), Y: encode(point[33:])}
	k.ID = k.thumbprint()
	if jwks, err = json.Marshal(map[string][]jwk{"keys": {k}}); err != nil {
		return nil, nil, err
	}
	k.D = encode(secret)
	private, err = json.Marshal(k)
	return private, jwks, err
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// decode decodes base64url without padding (RFC 7515, section 2). The result must have exactly size bytes, or at
// least one byte if size is 0.
func decode(s string, size int) ([]byte, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("a member of the key is not valid base64url")
	}
	if size != 0 && len(data) != size || len(data) == 0 {
		return nil, errors.New("a member of the key has the wrong length")
	}
	return data, nil
}

// readFile reads the key file at path. It returns an error if the file is larger than maxKeysFile.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKeysFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxKeysFile)
	}
	return os.ReadFile(path)
}
