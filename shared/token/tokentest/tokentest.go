// Package tokentest makes signers and verifiers that belong together, for the tests of what demands a token.
package tokentest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
)

// Whom the tokens of New are issued by and for, and how long they live.
const (
	Issuer   = "https://issuer.test"
	Audience = "strongroom"
	Lifetime = 15 * time.Minute
)

// New returns a signer with a key of its own, and the verifier and the public keys for its tokens.
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
