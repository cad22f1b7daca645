// Command record is the function that keeps the catalogue: an event source calls it with a CloudEvent for each file
// that was stored, and it writes the file's entry.
package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// MongoDBURI names the server, the database and the user that may write the catalogue.
	MongoDBURI string `env:"MONGODB_URI,required,notEmpty,unset"`
}

func main() { function.Main(setup) }

// setup builds the record endpoint from its settings.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	store, err := catalog.Open(cfg.MongoDBURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	return newHandler(store, time.Now), nil
}
