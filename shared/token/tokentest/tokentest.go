// Package tokentest creates signers and matching verifiers for tests of code that requires access tokens.
package tokentest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// The issuer, audience and lifetime of the tokens that the signer from New issues.
const (
	Issuer   = "https://issuer.test"
	Audience = "strongroom"
	Lifetime = 15 * time.Minute
)

// New returns a signer with a new key, a verifier that accepts the signer's tokens, and the verifier's public
// keys.
func New(t testing.TB) (*token.Signer, *token.Verifier, *token.Keys) {
	t.Helper()
	private, public, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.jwk")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := token.LoadSigner(file, Issuer, Audience, Lifetime, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.ParseKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := token.NewVerifier(keys, Issuer, Audience)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier, keys
}
