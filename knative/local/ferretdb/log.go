package main

import (
	"context"
	"log/slog"
	"slices"
)

// lazyHandler is a slog.Handler that keeps attributes and groups until a record is written. FerretDB passes the arguments of
// each SQL statement to Logger.With twice, for debug records that nobody reads, and slog.TextHandler formats attributes in
// WithAttrs. The arguments hold the bytes of files, so formatting them took half of the time of an upload.
type lazyHandler struct {
	next slog.Handler
	// steps add the attributes and groups to next, in their order.
	steps []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h lazyHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h lazyHandler) Handle(ctx context.Context, record slog.Record) error {
	next := h.next
	for _, step := range h.steps {
		next = step(next)
	}
	return next.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h lazyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h lazyHandler) WithGroup(name string) slog.Handler {
	return h.with(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h lazyHandler) with(step func(slog.Handler) slog.Handler) slog.Handler {
	h.steps = append(slices.Clip(h.steps), step) // clipped, because other handlers share the array
	return h
}
