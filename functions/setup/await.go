package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
)

// await calls the function step, which sets up a store. While its error wraps problem.Unavailable, await calls it again
// until ctx ends, after an interval that doubles each time. await returns any other error immediately, because waiting
// cannot remove its cause.
func await(ctx context.Context, what string, step func(ctx context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := step(ctx)
		if err == nil {
			slog.InfoContext(ctx, "store is set up", "store", what)
			return nil
		}
		if !errors.Is(err, problem.Unavailable) {
			return fmt.Errorf("set up %s: %w", what, err)
		}
		slog.InfoContext(ctx, "waiting until the store is available", "for", what, "pause_ms", pause.Milliseconds(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("set up %s: gave up waiting: %w", what, err)
		}
	}
}
