package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// recatalogueTimeout bounds the publishing of events. What it does not get to, the next time does.
	recatalogueTimeout = 15 * time.Minute
	// idsAtOnce is how many files are looked up at once.
	idsAtOnce = 500
)

// recatalogue publishes again the events of files that are not in the catalogue, although they were confirmed: what a lost
// RabbitMQ or a backup leaves behind. It writes to out how many. An event that was only still on its way makes no second entry.
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
	err = withStore(cfg.MongoURI, content.Open, func(files *content.Store) error {
		return withStore(cfg.MongoURI, catalog.Open, func(entries *catalog.Store) error {
			for after := ""; ; {
				ids, err := files.IDs(ctx, after, idsAtOnce)
				if err != nil || len(ids) == 0 {
					return err
				}
				after = ids[len(ids)-1]
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

// republish publishes the event of a file, but of one that sweep will see to, or that was deleted meanwhile.
func republish(ctx context.Context, files *content.Store, publisher events.Publisher, id string) (done bool, err error) {
	if confirmed, err := files.Confirmed(ctx, id); err != nil || !confirmed {
		return false, err
	}
	body, err := files.Event(ctx, id)
	if errors.Is(err, problem.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var e event.Event
	if err := e.UnmarshalJSON(body); err != nil {
		return false, fmt.Errorf("read the event of file %s: %w", id, err)
	}
	if err := publisher.Publish(ctx, e); err != nil {
		return false, fmt.Errorf("publish the event of file %s: %w", id, err)
	}
	return true, nil
}
