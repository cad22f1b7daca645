package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/strongroom-dev/strongroom/shared/events"
)

// redriveTimeout is the time limit for the redrive command. After a timeout, the remaining dead letters stay in the
// dead-letter queue until the next run.
const redriveTimeout = 15 * time.Minute

// redrive moves dead letters, which are events that could not be processed, back to the event queue. It reports to out
// how many dead letters it moved.
func redrive(ctx context.Context, cfg config, out io.Writer) error {
	if err := demand("EVENTS_ADMIN_URL_FILE", string(cfg.EventsURL)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, redriveTimeout)
	defer cancel()
	moved, err := events.Redrive(ctx, string(cfg.EventsURL))
	_, noted := fmt.Fprintf(out, "dead letters moved back: %d\n", moved)
	return errors.Join(err, noted)
}
