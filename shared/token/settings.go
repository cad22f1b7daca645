package token

import (
	"fmt"
	"time"
)

// Settings configures a serverless function that verifies access tokens.
type Settings struct {
	// KeysFile is the path of a file that contains a JWK Set (RFC 7517) with the public keys for verifying access
	// tokens.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are the required values of an access token's iss and aud claims.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
}

// Verifier reads the public keys and returns a Verifier for the settings.
func (s Settings) Verifier() (*Verifier, error) {
	keys, err := LoadKeys(s.KeysFile)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_KEYS_FILE: %w", err)
	}
	return NewVerifier(keys, s.Issuer, s.Audience)
}

// SignerSettings configures a serverless function that issues access tokens.
type SignerSettings struct {
	// SigningKeyFile is the path of a file that contains the private JWK for signing access tokens.
	SigningKeyFile string `env:"TOKEN_SIGNING_KEY_FILE,required,notEmpty"`
	// Issuer and Audience become the iss and aud claims of every access token. Serverless functions reject tokens
	// with other values, so all functions must have the same values.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// Lifetime is how long an access token is valid. Serverless functions that do not look up accounts accept a
	// disabled user's access tokens until the tokens expire.
	Lifetime time.Duration `env:"TOKEN_LIFETIME" envDefault:"15m"`
}

// Signer reads the private key and returns a Signer for the settings.
func (s SignerSettings) Signer() (*Signer, error) {
	return LoadSigner(s.SigningKeyFile, s.Issuer, s.Audience, s.Lifetime, time.Now)
}
