// Command files is the serverless function that lets users list, view, download and delete files. It also creates
// download links, which need no access token.
package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	token.Settings
	// TrustSettings determines how the function obtains a client's IP address. The log contains this address, and the
	// function signs it for the accounts function.
	client.TrustSettings
	// MongoURI is the URI of the MongoDB database that stores the file content and the catalog.
	MongoURI function.Secret `env:"MONGODB_URI_FILE,required,notEmpty"`
	// LinkKeyFile is the path of the file that contains the secret key for signing download links. The key must be at
	// least 32 bytes long. Replacing the key invalidates all existing links.
	LinkKeyFile string `env:"LINK_KEY_FILE,required,notEmpty"`
	// AccountsURL is the base URL of the accounts function, such as http://accounts.strongroom.svc.cluster.local. The
	// function checks the account of a client that requests a link which outlives the access token.
	AccountsURL string `env:"ACCOUNTS_URL,required,notEmpty"`
}

func main() { function.Main(setup) }

// setup creates the files function's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	trust, err := cfg.Trust()
	if err != nil {
		return nil, err
	}
	verifier, err := cfg.Verifier()
	if err != nil {
		return nil, err
	}
	links, err := loadLinks(cfg.LinkKeyFile)
	if err != nil {
		return nil, err
	}
	accounts, err := function.ParseURL("ACCOUNTS_URL", cfg.AccountsURL)
	if err != nil {
		return nil, err
	}
	files, err := content.Open(string(cfg.MongoURI))
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	return function.Closing(newHandler(verifier, files, catalog.New(files.Database()), links, newAccountChecker(accounts, trust)), files), nil
}
