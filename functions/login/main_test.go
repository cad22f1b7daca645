package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
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
	signInKey := filepath.Join(t.TempDir(), "sign-in-key")
	if err := os.WriteFile(signInKey, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config{KeySettings: accounts.KeySettings{SignInKeyFile: signInKey}, DSN: "u:s3cret@tcp(127.0.0.1:1)/strongroom", SignerSettings: token.SignerSettings{SigningKeyFile: keyFile, Issuer: "issuer", Audience: "audience", Lifetime: time.Minute}, SessionLifetime: time.Hour, SessionIdleTimeout: 2 * time.Minute,
		PolicySettings: password.PolicySettings{MinLength: 12}}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // a part of the error; empty if no error is expected
	}{
		"valid":          {change: func(*config) {}}, // setup opens no connection
		"invalid DSN":    {change: func(c *config) { c.DSN = "u:s3cret" }, want: "MYSQL_DSN_FILE"},
		"negative hops":  {change: func(c *config) { c.TrustedHops = -1 }, want: "TRUSTED_HOPS"},
		"short minimum":  {change: func(c *config) { c.MinLength = 7 }, want: "PASSWORD_MIN_LENGTH"},
		"zero session":   {change: func(c *config) { c.SessionLifetime = 0 }, want: "SESSION_LIFETIME"},
		"short idle":     {change: func(c *config) { c.SessionIdleTimeout = time.Minute }, want: "SESSION_IDLE_TIMEOUT: must be longer than TOKEN_LIFETIME"},
		"zero lifetime":  {change: func(c *config) { c.Lifetime = 0 }, want: "TOKEN_LIFETIME"},
		"no sign-in key": {change: func(c *config) { c.SignInKeyFile = signInKey + "x" }, want: "SIGN_IN_KEY_FILE"},
		"missing key":    {change: func(c *config) { c.SigningKeyFile = keyFile + "x" }, want: keyFile + "x"},
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

// TestDefaults checks the lifetimes of a session without settings. OWASP ASVS 4.0.3, 3.3.2, requires these values.
func TestDefaults(t *testing.T) {
	dsn := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(dsn, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := env.ParseAsWithOptions[config](env.Options{Environment: map[string]string{
		"MYSQL_DSN_FILE": dsn, "TOKEN_SIGNING_KEY_FILE": "x", "TOKEN_ISSUER": "x", "TOKEN_AUDIENCE": "x", "SIGN_IN_KEY_FILE": "x",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SessionLifetime != 12*time.Hour || cfg.SessionIdleTimeout != 30*time.Minute {
		t.Errorf("got sessions of %v, or of %v without a refresh, want 12h and 30m", cfg.SessionLifetime, cfg.SessionIdleTimeout)
	}
}
