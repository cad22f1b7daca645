// Command gateway is the function that receives all requests from clients, because only the gateway has a public
// address. It routes each request by its path to another function, to the session endpoints or to the web console. It
// stores the browser's refresh token in a cookie that scripts cannot read. It streams request and response bodies, so
// that it does not hold whole files in memory.
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/strongroom-dev/strongroom/functions/gateway/console"
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
	// GatewayKeyFile is the path to the key with which the gateway signs client addresses. The login and accounts
	// functions have the same key, so that they can verify the signatures.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE,required,notEmpty"`
	// TrustedHops is the number of trusted proxies in front of the gateway. Each proxy appends the address of its peer
	// to X-Forwarded-For, so the gateway uses this number to find the client's address. The gateway also trusts the
	// protocol and the host that these proxies report. The login and accounts functions have the same setting.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// CORSOrigins lists the origins of other sites, such as https://app.example.com, separated by commas. Pages of
	// these sites may send requests to the functions and read the responses (CORS).
	CORSOrigins []string `env:"CORS_ORIGINS"`
}

func main() { function.Main(setup) }

// setup creates the gateway's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := function.LoadTrust(cfg.TrustedHops, cfg.GatewayKeyFile)
	if err != nil {
		return nil, err
	}
	origins, err := parseOrigins(cfg.CORSOrigins)
	if err != nil {
		return nil, fmt.Errorf("CORS_ORIGINS: %w", err)
	}
	targets := map[string]*url.URL{}
	for name, address := range map[string]string{
		"login": cfg.LoginURL, "validate": cfg.ValidateURL, "upload": cfg.UploadURL, "files": cfg.FilesURL, "accounts": cfg.AccountsURL,
	} {
		if targets[name], err = parseBase(address); err != nil {
			return nil, fmt.Errorf("%s_URL: %w", strings.ToUpper(name), err)
		}
	}
	return newHandler(newRoutes(targets), trust, origins, console.Handler()), nil
}
