package token

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzVerify checks that the verifier accepts no other spelling of a valid token, and that it does not panic.
func FuzzVerify(f *testing.F) {
	fix := newFixture(f, noon)
	good := fix.forge(f, goodHeader, goodPayload)
	if _, err := fix.verifier.Verify(good); err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for _, seed := range []string{good, good + "\n", good + "=", " " + good, strings.ToLower(good), parts[0] + "." + parts[1] + ".",
		encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "..", strings.Repeat("a.", 10)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := fix.verifier.Verify(raw); err == nil && raw != good {
			t.Errorf("accepted %q, which differs from the signed token", raw)
		}
	})
}

// FuzzClaims checks that accepted claims do not change if they are encoded and decoded again, so that every parser reads
// the same claims.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(goodPayload))
	f.Add([]byte(strings.Replace(goodPayload, `"aud":"strongroom"`, `"aud":["a","strongroom"]`, 1)))
	f.Add([]byte(strings.Replace(goodPayload, `"sub"`, `"SUB"`, 1)))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second Claims
		if err := first.UnmarshalJSON(data); err != nil {
			return
		}
		written, err := first.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := second.UnmarshalJSON(written); err != nil {
			t.Fatalf("accepted %s, but not its encoded form %s: %v", data, written, err)
		}
		again, err := second.MarshalJSON()
		if err != nil || !bytes.Equal(written, again) {
			t.Errorf("got %s, error %v after the second encoding; want %s", again, err, written)
		}
	})
}

// FuzzParseKeys checks that an accepted key set can be published: JWKS returns no private part, and ParseKeys accepts the
// result of JWKS.
func FuzzParseKeys(f *testing.F) {
	private, jwks, err := GenerateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(jwks)
	f.Add([]byte(`{"keys":[` + string(private) + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParseKeys(data)
		if err != nil {
			return
		}
		published := keys.JWKS()
		if bytes.Contains(published, []byte(`"d":`)) {
			t.Errorf("published key set contains a private part: %s", published)
		}
		if _, err := ParseKeys(published); err != nil {
			t.Errorf("parse the published key set %s: %v", published, err)
		}
	})
}
