// Command record is the function that keeps the catalogue: an event source calls it with a CloudEvent for each file
// that was stored, and it writes the file's entry.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// MongoDBURI names the server, the database and the user that may write the catalogue and read the tombstones.
	MongoDBURI string `env:"MONGODB_URI,required,notEmpty,unset"`
}

func main() { function.Main(setup) }

// setup builds the record endpoint from its settings.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	entries, err := catalog.Open(cfg.MongoDBURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	files, err := content.Open(cfg.MongoDBURI)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("MONGODB_URI: %w", err), entries.Close())
	}
	return server{newHandler(entries, files, time.Now), entries, files}, nil
}

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	entries *catalog.Store
	files   *content.Store
}

// Close implements io.Closer.
func (s server) Close() error { return errors.Join(s.entries.Close(), s.files.Close()) }
