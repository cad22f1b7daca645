//go:build audit

package token_test

import (
	"crypto/elliptic"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/shared/token/tokentest"
)

// TestAuditSecondSignature checks security S16: a token has one valid signature, so the verifier refuses (r, n-s) for the signature (r, s).
func TestAuditSecondSignature(t *testing.T) {
	signer, verifier, _ := tokentest.New(t)
	raw, _, err := signer.Sign(token.Subject{ID: "x", Username: "ada", Roles: []string{token.RoleUser}, Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(raw); err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndexByte(raw, '.') + 1
	signature, err := base64.RawURLEncoding.DecodeString(raw[i:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	if _, err := verifier.Verify(raw[:i] + base64.RawURLEncoding.EncodeToString(signature)); err == nil {
		t.Error("got a valid token with the signature (r, n-s), which the signer never created")
	}
}
