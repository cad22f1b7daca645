// Command validate is the function that says whether a token is good and what it permits: the forward-auth endpoint
// for any proxy. It holds public keys only and opens no connection, unless it is to check tokens online.
package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// KeysFile is the public JWK Set that tokens are verified with.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens must have been issued by and for.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// DSN, where it is set, is of the account store: each token is looked up there, so that one is void at once whose
	// user was disabled, signed out everywhere, or was given another role or password. Without it, when it expires.
	DSN string `env:"MYSQL_DSN,unset"`
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
	if cfg.DSN == "" {
		return newHandler(verifier, keys, nil), nil
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN: %w", err)
	}
	return server{newHandler(verifier, keys, store), store}, nil
}

// server is the endpoint with what must be closed after it.
type server struct {
	*handler
	store *accounts.Store
}

// Close implements io.Closer.
func (s server) Close() error { return s.store.Close() }
