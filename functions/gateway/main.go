// Command gateway gives clients one address for all functions. It serves the web console and the session endpoints,
// with which a browser signs in and out. It forwards every other request to the function that handles the request's
// path. The gateway stores a browser's refresh token in a cookie that scripts cannot read. It streams request and
// response bodies, so that it does not hold whole files in memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/functions/gateway/console"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// The base URLs of the functions, such as http://login.strongroom.svc.cluster.local. A base URL must not have a
	// path.
	LoginURL    string `env:"LOGIN_URL,required,notEmpty"`
	ValidateURL string `env:"VALIDATE_URL,required,notEmpty"`
	UploadURL   string `env:"UPLOAD_URL,required,notEmpty"`
	FilesURL    string `env:"FILES_URL,required,notEmpty"`
	AccountsURL string `env:"ACCOUNTS_URL,required,notEmpty"`
	// The gateway signs client addresses for the login and accounts functions, which have the same TrustSettings. The
	// gateway also uses these settings to decide whether to trust X-Forwarded-Proto and X-Forwarded-Host.
	client.TrustSettings
	// CORSOrigins lists the origins of other sites, such as https://app.example.com, separated by commas. Pages of
	// these sites may send requests to the functions and read the responses (CORS).
	CORSOrigins []string `env:"CORS_ORIGINS"`
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	if cfg.GatewayKeyFile == "" {
		return nil, errors.New("GATEWAY_KEY_FILE: must be set")
	}
	trust, err := cfg.Trust()
	if err != nil {
		return nil, err
	}
	origins, err := parseOrigins(cfg.CORSOrigins)
	if err != nil {
		return nil, fmt.Errorf("CORS_ORIGINS: %w", err)
	}
	targets, err := cfg.targets()
	if err != nil {
		return nil, err
	}
	return newHandler(newRoutes(targets), trust, origins, console.Handler()), nil
}
