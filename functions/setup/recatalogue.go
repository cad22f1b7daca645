package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// recatalogueTimeout is the time limit for the recatalogue command. After a timeout, the next run publishes
	// the remaining events.
	recatalogueTimeout = 15 * time.Minute
	// idsAtOnce is the maximum number of files per query.
	idsAtOnce = 500
)

// recatalogue finds the files that have no catalog entry even though RabbitMQ confirmed their events, and publishes
// these events again. It writes the number of published events to out.
func recatalogue(ctx context.Context, cfg config, out io.Writer) (err error) {
	if err := errors.Join(demand("MONGODB_URI", cfg.MongoURI), demand("EVENTS_ADMIN_URL", cfg.EventsURL)); err != nil {
		return err
	}
	publisher, err := events.NewPublisher(cfg.EventsURL)
	if err != nil {
		return fmt.Errorf("EVENTS_ADMIN_URL: %w", err)
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, recatalogueTimeout)
	defer cancel()
	published := 0
	err = withStore("MONGODB_URI", cfg.MongoURI, content.Open, func(files *content.Store) error {
		return withStore("MONGODB_URI", cfg.MongoURI, catalog.Open, func(entries *catalog.Store) error {
			for after := ""; ; {
				ids, err := files.IDs(ctx, after, idsAtOnce)
				if err != nil || len(ids) == 0 {
					return err
				}
				after = ids[len(ids)-1]
				// A catalog entry can be missing if RabbitMQ lost the event that announced the file, or if a
				// database was restored from a backup.
				missing, err := entries.Missing(ctx, ids)
				if err != nil {
					return err
				}
				for _, id := range missing {
					done, err := republish(ctx, files, publisher, id)
					if err != nil {
						return err
					}
					if done {
						published++
					}
				}
			}
		})
	})
	_, noted := fmt.Fprintf(out, "events published again: %d\n", published)
	return errors.Join(err, noted)
}

// republish sends the event for the file with the given ID to RabbitMQ again, and reports whether it has done so. It
// does nothing if the file has been deleted or if RabbitMQ has never confirmed the event. The sweep function
// publishes unconfirmed events.
func republish(ctx context.Context, files *content.Store, publisher events.Publisher, id string) (done bool, err error) {
	if confirmed, err := files.Confirmed(ctx, id); err != nil || !confirmed {
		return false, err
	}
	e, err := events.Load(ctx, files, id)
	if errors.Is(err, problem.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// Publishing an event twice does no harm, because the record function creates only one catalog entry.
	if err := publisher.Publish(ctx, e); err != nil {
		return false, fmt.Errorf("publish the event for file %s: %w", id, err)
	}
	return true, nil
}
