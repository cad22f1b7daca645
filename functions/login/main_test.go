package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/token"
)

func TestSetup(t *testing.T) {
	private, _, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key.jwk")
	if err := os.WriteFile(keyFile, private, 0o600); err != nil {
		t.Fatal(err)
	}
	good := config{DSN: "u:s3cret@tcp(127.0.0.1:1)/strongroom", SigningKeyFile: keyFile, Issuer: "issuer", Audience: "audience", Lifetime: time.Minute, SessionLifetime: time.Hour}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // in the error; empty: none
	}{
		"good":           {func(*config) {}, ""}, // and it does not connect
		"wrong DSN":      {func(c *config) { c.DSN = "u:s3cret" }, "MYSQL_DSN"},
		"negative hops":  {func(c *config) { c.TrustedHops = -1 }, "TRUSTED_HOPS"},
		"no session":     {func(c *config) { c.SessionLifetime = 0 }, "SESSION_LIFETIME"},
		"short lifetime": {func(c *config) { c.Lifetime = 0 }, "TOKEN_LIFETIME"},
		"no key":         {func(c *config) { c.SigningKeyFile = keyFile + "x" }, keyFile + "x"},
	} {
		cfg := good
		test.change(&cfg)
		handler, err := setup(t.Context(), cfg)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want == "":
			err = errors.Join(err, handler.(io.Closer).Close())
			if err != nil {
				t.Error(err)
			}
		case err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: %v, want an error with %s and without the password", name, err, test.want)
		}
	}
}
