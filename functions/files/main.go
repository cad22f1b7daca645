// Command files is the serverless function that lets users list, view, download and delete files. It also creates
// download links, which need no access token.
package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	token.Settings
	// MongoURI is the URI of the MongoDB database that stores the file content and the catalog.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// LinkKeyFile is the path of the file that contains the secret key for signing download links. The key must be at
	// least 32 bytes long. Replacing the key invalidates all existing links.
	LinkKeyFile string `env:"LINK_KEY_FILE,required,notEmpty"`
}

func main() { function.Main(setup) }

// setup creates the files function's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	verifier, err := cfg.Verifier()
	if err != nil {
		return nil, err
	}
	links, err := loadLinks(cfg.LinkKeyFile)
	if err != nil {
		return nil, err
	}
	files, err := content.Open(cfg.MongoURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	return function.Closing(newHandler(verifier, files, catalog.New(files.Database()), links), files), nil
}
