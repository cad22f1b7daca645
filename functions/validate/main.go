// Command validate is the function that verifies access tokens and returns their claims. A proxy can use it as its
// forward-auth endpoint. The function needs only public keys. It uses the account database only if MYSQL_DSN is set.
package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	token.Settings
	// DSN is the data source name of the MySQL account store. If it is set, the function looks up the account for each
	// token. A token then becomes invalid as soon as its user is disabled or deleted, is signed out of all sessions, or
	// is given another role or password. If DSN is not set, a token stays valid until it expires.
	DSN string `env:"MYSQL_DSN,unset"`
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	verifier, err := cfg.Verifier()
	if err != nil {
		return nil, err
	}
	if cfg.DSN == "" {
		return newHandler(verifier, nil), nil
	}
	store, err := accounts.Open(cfg.DSN, time.Now)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN: %w", err)
	}
	return function.Closing(newHandler(verifier, store), store), nil
}
