// Command gateway forwards clients' requests to the serverless functions. It also serves the web console and the
// session endpoints, which browsers use to sign in and out.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/functions/gateway/console"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
)

type config struct {
	// The base URLs of the functions, such as http://login.strongroom.svc.cluster.local. A base URL must not have a
	// path.
	LoginURL    string `env:"LOGIN_URL,required,notEmpty"`
	ValidateURL string `env:"VALIDATE_URL,required,notEmpty"`
	UploadURL   string `env:"UPLOAD_URL,required,notEmpty"`
	FilesURL    string `env:"FILES_URL,required,notEmpty"`
	AccountsURL string `env:"ACCOUNTS_URL,required,notEmpty"`
	// TrustSettings contains the path of the key file for signing headers that describe the client. It also determines
	// whether the gateway trusts the X-Forwarded headers.
	client.TrustSettings
	// CORSOrigins lists the origins of other sites, such as https://app.example.com, separated by commas. Pages of
	// these sites may send requests to the functions and read the responses (CORS).
	CORSOrigins []string `env:"CORS_ORIGINS"`
	// PolicySettings contains the minimum length of a new password. The console shows it.
	password.PolicySettings
}

// Identify overrides the method of client.TrustSettings. It ignores signed headers, because only the gateway signs
// headers, and its requests come from clients.
func (cfg config) Identify(next http.Handler) (http.Handler, error) {
	return client.TrustSettings{TrustedHops: cfg.TrustedHops}.Identify(next)
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
	if _, err := cfg.Policy(); err != nil {
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
	return newHandler(newRoutes(targets), trust, origins, console.Handler(cfg.MinLength)), nil
}
