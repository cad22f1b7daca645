// Command upload is the function that takes in files: the bytes go to MongoDB, then one CloudEvent tells of them.
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
	// KeysFile is the public JWK Set that tokens are verified with.
	KeysFile string `env:"TOKEN_KEYS_FILE,required,notEmpty"`
	// Issuer and Audience are what tokens must have been issued by and for.
	Issuer   string `env:"TOKEN_ISSUER,required,notEmpty"`
	Audience string `env:"TOKEN_AUDIENCE,required,notEmpty"`
	// MongoURI names the server and the database that the bytes go to.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// EventsURL is a RabbitMQ whose user may publish only, or a sink of CloudEvents over HTTP.
	EventsURL string `env:"EVENTS_URL,required,notEmpty,unset"`
	// MaxSize bounds a file, in bytes or with the suffix KiB, MiB or GiB. A slow client must get it through within
	// REQUEST_TIMEOUT.
	MaxSize size `env:"UPLOAD_MAX_SIZE" envDefault:"1GiB"`
	// Quota bounds all files of one user together, written like MaxSize; 0 does not.
	Quota quota `env:"UPLOAD_QUOTA" envDefault:"0"`
}

func main() { function.Main(setup) }

// setup builds the upload endpoint from its settings.
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

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	files     *content.Store
	publisher events.Publisher
}

// Close implements io.Closer.
func (s server) Close() error { return errors.Join(s.publisher.Close(), s.files.Close()) }
