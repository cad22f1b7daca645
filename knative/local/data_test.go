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
		t.Errorf("got %v, %v, want a directory for its owner only", info, err)
	}
	_, err = openData(dir)
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "STRONGROOM_DIR") {
		t.Errorf("got %v, want an error that names the process and the way out", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = openData(dir)
	if err != nil {
		t.Fatalf("got %v after the first had gone", err)
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
		t.Errorf("got other secrets the second time (%v)", err)
	}
	for _, name := range []string{"key.jwk", "jwks.json", "password", "gateway-key", "link-key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want a file for its owner only", name, info, err)
		}
	}
	// What login signs is what the others accept.
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
		t.Errorf("the key pair is none: %v", err)
	}
	// A data directory may be older than a key of which only this system knows.
	if err := os.Remove(filepath.Join(dir, "gateway-key")); err != nil {
		t.Fatal(err)
	}
	if third, err := keepSecrets(dir); err != nil || len(third.gatewayKey) < 32 || third.gatewayKey == first.gatewayKey || third.password != first.password {
		t.Errorf("got no other gateway key, or another password (%v)", err)
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	if _, err := keepSecrets(dir); err == nil {
		t.Error("got no error for a secret that is lost")
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
