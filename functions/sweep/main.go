// Command sweep is the function that completes interrupted work. It publishes events that the broker has not confirmed,
// completes interrupted uploads and deletions, and deletes expired data. An event source calls it at regular intervals.
package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// MongoURI is the URI of the MongoDB database that contains the files and the catalog.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
	// EventsURL is the URL of a RabbitMQ server or of an HTTP sink for CloudEvents. For RabbitMQ, the user in the URL
	// must be allowed to publish events and to count the messages in the queues.
	EventsURL string `env:"EVENTS_URL,required,notEmpty,unset"`
	// PendingGrace is how long sweep waits before it publishes a new file's event or completes a deletion, so that the
	// function that handles the upload or the deletion can do so first.
	PendingGrace time.Duration `env:"PENDING_GRACE" envDefault:"1m"`
	// OrphanGrace is how long sweep waits before it deletes bytes that do not belong to a file. It must exceed the
	// duration of the longest request to the upload function, because sweep would otherwise delete the bytes of an
	// upload that is still in progress.
	OrphanGrace time.Duration `env:"ORPHAN_GRACE" envDefault:"15m"`
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	if err := cfg.check(); err != nil {
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
	entries, err := catalog.Open(cfg.MongoURI)
	if err != nil {
		return nil, fmt.Errorf("MONGODB_URI: %w", err)
	}
	return function.Closing(newHandler(&sweeper{
		files: files, entries: entries, publisher: publisher,
		queueDepths:  func(ctx context.Context) (events.Depths, error) { return events.QueueDepths(ctx, cfg.EventsURL) },
		pendingGrace: cfg.PendingGrace, orphanGrace: cfg.OrphanGrace, now: time.Now,
	}), publisher, files, entries), nil
}
