// Command validate is the function that says whether a token is good and what it permits: the forward-auth endpoint
// for any proxy. It holds public keys only and opens no connection.
package main

import (
	"context"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// KeysFile is the public JWK Set that tokens are verified with.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens must have been issued by and for.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
}

func main() { function.Main(setup) }

// setup builds the validate endpoint from its settings.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	keys, err := token.LoadKeys(cfg.KeysFile)
	if err != nil {
		return nil, err
	}
	verifier, err := token.NewVerifier(keys, cfg.Issuer, cfg.Audience)
	if err != nil {
		return nil, err
	}
	return newHandler(verifier, keys), nil
}
