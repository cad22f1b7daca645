// Command files is the function with which users list, view, download and delete files. It also creates links with
// which any client can download a file without an access token until the link expires.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// KeysFile is the path to a JWK Set (RFC 7517) with the public keys that verify access tokens.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are the values that the claims iss and aud of an access token must have.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// MongoURI is the URI of the MongoDB database that stores the file content and the catalog.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// LinkKeyFile is the path to the secret key that signs download links. The key must have at least 32 bytes. If the
	// key is replaced, all existing links become invalid.
	LinkKeyFile string `env:"LINK_KEY_FILE,required,notEmpty"`
}

func main() { function.Main(setup) }

// setup creates the files function's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	keys, err := token.LoadKeys(cfg.KeysFile)
	if err != nil {
		return nil, err
	}
	verifier, err := token.NewVerifier(keys, cfg.Issuer, cfg.Audience)
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
	entries, err := catalog.Open(cfg.MongoURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	return server{newHandler(verifier, contents{files}, entries, links), files, entries}, nil
}

// server is the files function's HTTP handler. It also holds the stores, so that Close can close them.
type server struct {
	http.Handler
	files   *content.Store
	entries *catalog.Store
}

// Close implements io.Closer. It closes both stores.
func (s server) Close() error { return errors.Join(s.files.Close(), s.entries.Close()) }
