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

// await calls step until it succeeds or ctx ends, with growing pauses, as long as what it needs is away. Whatever else
// is wrong waiting does not mend, and is returned at once.
func await(ctx context.Context, what string, step func(ctx context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := step(ctx)
		if err == nil {
			slog.InfoContext(ctx, "set up", "store", what)
			return nil
		}
		if !errors.Is(err, problem.Unavailable) {
			return fmt.Errorf("set up %s: %w", what, err)
		}
		slog.InfoContext(ctx, "waiting", "for", what, "pause_ms", pause.Milliseconds(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("set up %s: no longer waiting: %w", what, err)
		}
	}
}
