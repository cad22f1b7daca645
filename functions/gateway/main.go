// Command gateway is the function in front of the others: one public address, which routes by path. It keeps the browser's
// session in a cookie, and streams what it passes on in both directions.
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/strongroom-dev/strongroom/functions/gateway/console"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// The addresses of the functions, such as http://login.strongroom.svc.cluster.local, without a path.
	LoginURL    string `env:"LOGIN_URL,required,notEmpty"`
	ValidateURL string `env:"VALIDATE_URL,required,notEmpty"`
	UploadURL   string `env:"UPLOAD_URL,required,notEmpty"`
	FilesURL    string `env:"FILES_URL,required,notEmpty"`
	AccountsURL string `env:"ACCOUNTS_URL,required,notEmpty"`
	// GatewayKeyFile is the key that the address of who called is signed with, for login and accounts.
	GatewayKeyFile string `env:"GATEWAY_KEY_FILE,required,notEmpty"`
	// TrustedHops is how many proxies in front add the address of who called them to X-Forwarded-For, counted from this
	// process; as for login. What they say of the protocol and the host is believed, too.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"0"`
	// CORSOrigins are the other sites, such as https://app.example.com, whose pages may call the functions, with commas
	// between them.
	CORSOrigins []string `env:"CORS_ORIGINS"`
}

func main() { function.Main(setup) }

// setup builds the gateway from its settings.
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
			return nil, fmt.Errorf("the address of %s: %w", name, err)
		}
	}
	return newHandler(newRoutes(targets), trust, origins, console.Handler()), nil
}
