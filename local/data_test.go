package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
)

func TestDataDirectoryIsForOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	release, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v, want a directory with mode 0700", info, err)
	}
	_, err = openData(dir)
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "STRONGROOM_DIR") {
		t.Errorf("got %v, want an error that names the process and STRONGROOM_DIR", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = openData(dir)
	if err != nil {
		t.Fatalf("got error %v after the first lock was released", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestSecretsAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	first, err := keepSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := keepSecrets(dir); err != nil || second != first {
		t.Errorf("got different secrets the second time (error %v)", err)
	}
	for _, name := range []string{"key.jwk", "jwks.json", "password", "gateway-key", "link-key", "sign-in-key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want a file with mode 0600", name, info, err)
		}
	}
	// The public key must verify a token that the private key has signed.
	signer, err := token.LoadSigner(filepath.Join(dir, "key.jwk"), "issuer", "audience", time.Minute, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := signer.Sign(token.Subject{ID: "1", Username: "ada", Roles: []string{"user"}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.LoadKeys(filepath.Join(dir, "jwks.json"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := token.NewVerifier(keys, "issuer", "audience")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(raw); err != nil {
		t.Errorf("the keys do not form a pair: %v", err)
	}
	// An earlier version of Strongroom may have created the data directory without the gateway key.
	if err := os.Remove(filepath.Join(dir, "gateway-key")); err != nil {
		t.Fatal(err)
	}
	if third, err := keepSecrets(dir); err != nil || len(third.gatewayKey) < 32 || third.gatewayKey == first.gatewayKey || third.password != first.password {
		t.Errorf("got gateway key %q and password %q (error %v), want a new gateway key and the same password", third.gatewayKey, third.password, err)
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	if _, err := keepSecrets(dir); err == nil {
		t.Error("got no error although the file of the password is missing")
	}
}

func TestRuntimeAccounts(t *testing.T) {
	kept := keptSecrets{password: "PW"}
	if got, err := kept.runtimeDSN("root:secret@tcp(127.0.0.1:3306)/strongroom"); err != nil || got != "strongroom:PW@tcp(127.0.0.1:3306)/strongroom" {
		t.Errorf("got %q, %v", got, err)
	}
	want := "mongodb://strongroom:PW@127.0.0.1:27017/strongroom?authSource=strongroom"
	if got, err := kept.runtimeURI("mongodb://root:secret@127.0.0.1:27017/strongroom?authSource=admin"); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
