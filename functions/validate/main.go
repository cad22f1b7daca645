// Command validate is the serverless function that verifies access tokens and returns their claims. A proxy can use it
// as its forward-auth endpoint.
package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	token.Settings
	// TrustSettings determines how the function obtains a client's IP address. The log contains this address.
	client.TrustSettings
	// DSN is the data source name of the MySQL account store. If DSN is not set, a token stays valid until it
	// expires, even if its user is disabled, deleted or signed out of all sessions, or gets a new role or password. If
	// DSN is set, the function looks up the account for each token and rejects such tokens.
	DSN function.Secret `env:"MYSQL_DSN_FILE"`
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
	store, err := accounts.Open(string(cfg.DSN), time.Now)
	if err != nil {
		return nil, fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	return function.Closing(newHandler(verifier, store), store), nil
}
