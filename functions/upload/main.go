// Command upload is the function that stores uploaded files. It stores the bytes of each file in MongoDB and then
// publishes a CloudEvent, so that the record function can add the file to the catalog.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/token"
)

type config struct {
	// KeysFile is the path to a JWK Set (RFC 7517) with the public keys that verify access tokens.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are the values that the claims iss and aud of an access token must have.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// MongoURI is the URI of the MongoDB database that stores the file content.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// EventsURL is the URL of the RabbitMQ broker or the HTTP sink to which the function publishes CloudEvents. A
	// RabbitMQ user in the URL needs only the permission to publish.
	EventsURL string `env:"EVENTS_URL,required,notEmpty,unset"`
	// MaxSize is the maximum size of a file, in bytes or with the suffix KiB, MiB or GiB. Slow clients must be able to
	// upload a file of this size within REQUEST_TIMEOUT, because a single-request upload fails after that time.
	MaxSize size `env:"UPLOAD_MAX_SIZE" envDefault:"1GiB"`
	// Quota is the maximum total size of each user's files, in the same format as MaxSize. 0 means that there is no
	// quota.
	Quota quota `env:"UPLOAD_QUOTA" envDefault:"0"`
}

func main() { function.Main(setup) }

// setup creates the upload function's HTTP handler from the settings in cfg.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	keys, err := token.LoadKeys(cfg.KeysFile)
	if err != nil {
		return nil, err
	}
	verifier, err := token.NewVerifier(keys, cfg.Issuer, cfg.Audience)
	if err != nil {
		return nil, err
	}
	publisher, err := events.NewPublisher(cfg.EventsURL)
	if err != nil {
		return nil, err
	}
	files, err := content.Open(cfg.MongoURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	handler, err := newHandler(verifier, files, publisher, limits{file: int64(cfg.MaxSize), quota: int64(cfg.Quota)})
	if err != nil {
		return nil, err
	}
	return server{handler, files, publisher}, nil
}

// server is the upload function's HTTP handler. It also holds the store and the publisher, so that Close can close
// them.
type server struct {
	http.Handler
	files     *content.Store
	publisher events.Publisher
}

// Close implements io.Closer. It closes the publisher and the store.
func (s server) Close() error { return errors.Join(s.publisher.Close(), s.files.Close()) }
