// Command record is the serverless function that adds an entry to the file catalog for each CloudEvent that announces
// a stored file.
package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// MongoURI is the URI of the MongoDB database that contains the files and the catalog.
	MongoURI function.Secret `env:"MONGODB_URI_FILE,required,notEmpty"`
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	files, err := content.Open(string(cfg.MongoURI))
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	return function.Closing(newHandler(catalog.New(files.Database()), files, time.Now), files), nil
}
