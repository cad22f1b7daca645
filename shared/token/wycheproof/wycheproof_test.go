// Package wycheproof tests package token with the independent test vectors of C2SP Wycheproof
// (https://github.com/C2SP/wycheproof).
package wycheproof

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	vectors "github.com/c2sp/wycheproof"
	"github.com/golang-jwt/jwt/v5"

	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	valid   = "valid"
	invalid = "invalid"
)

// load decodes the file of test vectors with the given name.
func load(t *testing.T, name string, file any) {
	t.Helper()
	data, err := fs.ReadFile(vectors.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, file); err != nil {
		t.Fatal(err)
	}
}

// exceptions lists the IDs of valid JSON Web Signatures that package token rejects, by the reason. Package token
// accepts no invalid JSON Web Signature.
var exceptions = map[string][]int{
	"a published key set must not contain symmetric keys":         {1, 348, 352, 357, 358, 359, 372, 373, 376, 377},
	"a token must have a payload":                                 {259},
	"an ES256 signature must have the lower of its two values":    {18},
	"RS384, RS512, PS256, PS384, PS512 and ES512 are unsupported": {264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 287, 288, 320, 321, 322, 323, 325, 326, 327, 328, 346, 347, 350, 351},
}

func TestJSONWebSignatures(t *testing.T) {
	reasons := map[int]string{}
	for reason, ids := range exceptions {
		for _, id := range ids {
			reasons[id] = reason
		}
	}
	var file struct {
		Groups []struct {
			Public json.RawMessage `json:"public"`
			Tests  []struct {
				ID      int    `json:"tcId"`
				Comment string `json:"comment"`
				JWS     string `json:"jws"`
				Result  string `json:"result"`
			} `json:"tests"`
		} `json:"testGroups"`
	}
	load(t, "json_web_signature_test.json", &file)
	agreed := 0
	for _, group := range file.Groups {
		keys, err := token.ParseKeys([]byte(`{"keys":[` + string(group.Public) + `]}`))
		for _, test := range group.Tests {
			got := invalid
			if err == nil {
				if _, _, err := keys.Open(test.JWS); err == nil {
					got = valid
				}
			}
			reason, excepted := reasons[test.ID]
			switch {
			case got == test.Result && excepted:
				t.Errorf("%d %s: got %s, as the vector requires: delete the exception (%s)", test.ID, test.Comment, got, reason)
			case got != test.Result && (!excepted || got == valid):
				t.Errorf("%d %s: got %s, want %s", test.ID, test.Comment, got, test.Result)
			case got == test.Result:
				agreed++
			}
		}
	}
	t.Logf("%d test vectors agree, %d are exceptions", agreed, len(reasons))
	if agreed < 300 {
		t.Errorf("got %d test vectors that agree, want at least 300", agreed)
	}
}

// signatures is a file of test vectors for raw signatures.
type signatures struct {
	Groups []struct {
		Key struct {
			Raw          string `json:"pk"`
			Uncompressed string `json:"uncompressed"`
		} `json:"publicKey"`
		Tests []struct {
			ID        int    `json:"tcId"`
			Comment   string `json:"comment"`
			Message   string `json:"msg"`
			Signature string `json:"sig"`
			Result    string `json:"result"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// TestSignatures tests the signing methods with which Keys.Open verifies signatures. All test vectors must agree.
func TestSignatures(t *testing.T) {
	for name, c := range map[string]struct {
		file   string
		method jwt.SigningMethod
		key    func(raw, uncompressed []byte) (any, error)
	}{
		"EdDSA": {"ed25519_test.json", jwt.SigningMethodEdDSA, func(raw, _ []byte) (any, error) { return ed25519.PublicKey(raw), nil }},
		"ES256": {"ecdsa_secp256r1_sha256_p1363_test.json", jwt.SigningMethodES256, func(_, uncompressed []byte) (any, error) {
			return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var file signatures
			load(t, c.file, &file)
			tried := 0
			for _, group := range file.Groups {
				key, err := c.key(unhex(t, group.Key.Raw), unhex(t, group.Key.Uncompressed))
				if err != nil {
					t.Fatal(err)
				}
				for _, test := range group.Tests {
					tried++
					got := invalid
					if c.method.Verify(string(unhex(t, test.Message)), unhex(t, test.Signature), key) == nil {
						got = valid
					}
					if got != test.Result {
						t.Errorf("%d %s: got %s, want %s", test.ID, test.Comment, got, test.Result)
					}
				}
			}
			if tried < 100 {
				t.Errorf("got %d test vectors, want at least 100", tried)
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	data, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
