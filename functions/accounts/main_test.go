package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/token"
)

func TestSetup(t *testing.T) {
	_, public, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keysFile := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(keysFile, public, 0o600); err != nil {
		t.Fatal(err)
	}
	signInKey := filepath.Join(t.TempDir(), "sign-in-key")
	if err := os.WriteFile(signInKey, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config{KeySettings: accounts.KeySettings{SignInKeyFile: signInKey}, DSN: "u:s3cret@tcp(127.0.0.1:1)/strongroom", Settings: token.Settings{KeysFile: keysFile, Issuer: "issuer", Audience: "audience"},
		PolicySettings: password.PolicySettings{MinLength: 12}}
	for name, test := range map[string]struct {
		change func(*config)
		want   string // a part of the error, empty if setup must succeed
	}{
		"valid":          {change: func(*config) {}}, // setup does not connect to the database
		"malformed DSN":  {change: func(c *config) { c.DSN = "u:s3cret" }, want: "MYSQL_DSN_FILE"},
		"negative hops":  {change: func(c *config) { c.TrustedHops = -1 }, want: "TRUSTED_HOPS"},
		"no sign-in key": {change: func(c *config) { c.SignInKeyFile = signInKey + "x" }, want: "SIGN_IN_KEY_FILE"},
		"long minimum":   {change: func(c *config) { c.MinLength = 65 }, want: "PASSWORD_MIN_LENGTH"},
		"no keys":        {change: func(c *config) { c.KeysFile = keysFile + "x" }, want: keysFile + "x"},
		"no audience":    {change: func(c *config) { c.Audience = "" }, want: "TOKEN_AUDIENCE"},
	} {
		cfg := good
		test.change(&cfg)
		handler, err := setup(t.Context(), cfg)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want == "":
			if err := handler.(io.Closer).Close(); err != nil {
				t.Error(err)
			}
		case err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: got %v, want an error with %s and without the password", name, err, test.want)
		}
	}
}
