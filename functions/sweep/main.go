// Command sweep is the function that finishes what others could not: it publishes the events that were never confirmed,
// goes on with deletions that were interrupted, and deletes what is past its time. An event source calls it now and then.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// MongoURI names the server and the database with files and catalogue.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// EventsURL names a RabbitMQ, with a user that can publish and count the messages in the queues, or a sink of CloudEvents
	// over HTTP.
	EventsURL string `env:"EVENTS_URL,required,notEmpty,unset"`
	// PendingGrace is how long a file's event and a deletion are left to the function that began with them.
	PendingGrace time.Duration `env:"PENDING_GRACE" envDefault:"1m"`
	// OrphanGrace is how long bytes without a file are. It must be longer than the longest request of upload: the bytes
	// of one that is still running would be deleted under it.
	OrphanGrace time.Duration `env:"ORPHAN_GRACE" envDefault:"15m"`
}

func main() { function.Main(setup) }

// setup builds the sweep endpoint from its settings.
func setup(_ context.Context, cfg config) (http.Handler, error) {
	if cfg.PendingGrace <= 0 {
		return nil, errors.New("PENDING_GRACE must be positive")
	}
	if cfg.OrphanGrace < cfg.PendingGrace {
		return nil, errors.New("ORPHAN_GRACE must not be shorter than PENDING_GRACE")
	}
	publisher, err := events.NewPublisher(cfg.EventsURL)
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
	s := &sweeper{
		files: files, catalogue: entries, publisher: publisher,
		lengths:      func(ctx context.Context) (events.Depths, error) { return events.Lengths(ctx, cfg.EventsURL) },
		pendingGrace: cfg.PendingGrace, orphanGrace: cfg.OrphanGrace, now: time.Now,
	}
	return server{newHandler(s), files, entries, publisher}, nil
}

// server is the endpoint with what must be closed after it.
type server struct {
	http.Handler
	files     *content.Store
	catalogue *catalog.Store
	publisher events.Publisher
}

// Close implements io.Closer.
func (s server) Close() error {
	return errors.Join(s.publisher.Close(), s.files.Close(), s.catalogue.Close())
}
