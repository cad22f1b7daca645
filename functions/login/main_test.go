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
	good := config{DSN: "u:s3cret@tcp(127.0.0.1:1)/strongroom", SignerSettings: token.SignerSettings{SigningKeyFile: keyFile, Issuer: "issuer", Audience: "audience", Lifetime: time.Minute}, SessionLifetime: time.Hour}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // a part of the error; empty if no error is expected
	}{
		"valid":         {change: func(*config) {}}, // setup opens no connection
		"invalid DSN":   {change: func(c *config) { c.DSN = "u:s3cret" }, want: "MYSQL_DSN"},
		"negative hops": {change: func(c *config) { c.TrustedHops = -1 }, want: "TRUSTED_HOPS"},
		"zero session":  {change: func(c *config) { c.SessionLifetime = 0 }, want: "SESSION_LIFETIME"},
		"zero lifetime": {change: func(c *config) { c.Lifetime = 0 }, want: "TOKEN_LIFETIME"},
		"missing key":   {change: func(c *config) { c.SigningKeyFile = keyFile + "x" }, want: keyFile + "x"},
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
			t.Errorf("%s: got error %v, want one that contains %s but not the password", name, err, test.want)
		}
	}
}
