// Command upload is the serverless function that stores uploaded files in MongoDB. It publishes a CloudEvent for
// each file, so that the record function can add the file to the catalog.
package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/client"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	token.Settings
	// TrustSettings determines how the function obtains a client's IP address. The log contains this address.
	client.TrustSettings
	// MongoURI is the URI of the MongoDB database that stores the file content.
	MongoURI function.Secret `env:"MONGODB_URI_FILE,required,notEmpty"`
	// EventsURL is the URL of a RabbitMQ server or an HTTP sink for CloudEvents. A RabbitMQ user in the URL needs
	// only the permission to publish.
	EventsURL function.Secret `env:"EVENTS_URL_FILE,required,notEmpty"`
	// MaxSize is the maximum size of a file, in bytes or with the suffix KiB, MiB or GiB. Even a slow client must be
	// able to upload a file of this size in one request within REQUEST_TIMEOUT.
	MaxSize size `env:"UPLOAD_MAX_SIZE" envDefault:"1GiB"`
	// Quota is the maximum total size of each user's files, in the same format as MaxSize. It also limits the number of
	// files (see content.Limits). 0 means that there is no quota.
	Quota quota `env:"UPLOAD_QUOTA" envDefault:"0"`
}

func main() { function.Main(setup) }

// setup creates the upload function's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	verifier, err := cfg.Verifier()
	if err != nil {
		return nil, err
	}
	publisher, err := events.NewPublisher(string(cfg.EventsURL))
	if err != nil {
		return nil, err
	}
	files, err := content.Open(string(cfg.MongoURI))
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	files.Limits = content.Limits{Bytes: int64(cfg.Quota)}
	handler := newHandler(verifier, files, publisher, int64(cfg.MaxSize))
	return function.Closing(handler, publisher, files), nil
}
