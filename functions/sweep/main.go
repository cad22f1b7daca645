// Command sweep is the serverless function that completes interrupted uploads and deletions, publishes the events of
// files without a catalog entry, and deletes expired data. An event source calls it at regular intervals.
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
	MongoURI function.Secret `env:"MONGODB_URI_FILE,required,notEmpty"`
	// EventsURL is the URL of a RabbitMQ server or an HTTP sink for CloudEvents. A RabbitMQ user in the URL must be
	// allowed to publish events and to count queued messages.
	EventsURL function.Secret `env:"EVENTS_URL_FILE,required,notEmpty"`
	// PendingGrace is how long sweep waits before it completes an interrupted upload or deletion, because another
	// function might still be processing the client's request. It is also the time from the commit of a file to the
	// first publication of its event by sweep. The interval doubles with each further publication, up to 24 hours.
	PendingGrace time.Duration `env:"PENDING_GRACE" envDefault:"2m"`
	// OrphanGrace is how long sweep keeps the bytes of an upload that is not a file, since the start of a
	// single-request upload or since the expiration of a resumable upload. If a single-request upload takes longer,
	// sweep ends the upload, and the client gets an error.
	OrphanGrace time.Duration `env:"ORPHAN_GRACE" envDefault:"15m"`
	// Interval is the minimum time between the beginnings of two sweeps, because sweep does not authenticate its
	// callers. 0 means no limit.
	Interval time.Duration `env:"SWEEP_INTERVAL" envDefault:"1m"`
}

func main() { function.Main(setup) }

func setup(_ context.Context, cfg config) (http.Handler, error) {
	if err := cfg.check(); err != nil {
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
	return function.Closing(newHandler(&sweeper{
		begin: func(ctx context.Context) error { return files.BeginSweep(ctx, cfg.Interval) },
		files: files, notes: files.Notes, entries: catalog.New(files.Database()), publisher: publisher,
		queueDepths: func(ctx context.Context) (events.Depths, error) {
			return events.QueueDepths(ctx, string(cfg.EventsURL))
		},
		pendingGrace: cfg.PendingGrace, orphanGrace: cfg.OrphanGrace, now: time.Now,
	}), publisher, files), nil
}
