// Command record is the function that adds files to the catalog. For each stored file, an event source sends record a
// CloudEvent, and record writes the file's catalog entry.
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
	// MongoDBURI is the URI of the MongoDB database. The user in the URI must be allowed to write catalog entries and
	// to read tombstones.
	MongoDBURI string `env:"MONGODB_URI,required,notEmpty,unset"`
}

func main() { function.Main(setup) }

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

// server is the record function's HTTP handler. It also holds the stores, so that Close can close them.
type server struct {
	http.Handler
	entries *catalog.Store
	files   *content.Store
}

// Close implements io.Closer.
func (s server) Close() error { return errors.Join(s.entries.Close(), s.files.Close()) }
