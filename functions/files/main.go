// Command files is the function that gives files back: it lists, shows, downloads and deletes what the caller may see,
// and makes links to hand to others.
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
	// KeysFile is the public JWK Set that tokens are verified with.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens must have been issued by and for.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// MongoURI names the server and the database with the bytes and the catalogue.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// LinkKeyFile has the key that links are signed with, at least 32 bytes. Another key makes all links invalid that are
	// out there.
	LinkKeyFile string `env:"LINK_KEY_FILE,required,notEmpty"`
}

func main() { function.Main(setup) }

// setup builds the files endpoint from its settings.
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

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	files   *content.Store
	entries *catalog.Store
}

// Close implements io.Closer.
func (s server) Close() error { return errors.Join(s.files.Close(), s.entries.Close()) }
