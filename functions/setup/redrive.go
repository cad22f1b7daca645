package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/strongroom-dev/strongroom/shared/events"
)

// redriveTimeout bounds the moving of dead letters. What it does not get to stays where it is, for the next time.
const redriveTimeout = 15 * time.Minute

// redrive moves dead letters back and writes to out how many.
func redrive(ctx context.Context, cfg config, out io.Writer) error {
	if err := demand("EVENTS_ADMIN_URL", cfg.EventsURL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, redriveTimeout)
	defer cancel()
	moved, err := events.Redrive(ctx, cfg.EventsURL)
	_, noted := fmt.Fprintf(out, "dead letters moved back: %d\n", moved)
	return errors.Join(err, noted)
}
