package main

import (
	"context"
	"log/slog"
	"slices"
)

// lazyHandler is a slog.Handler that formats attributes only when it writes a record. It is necessary because FerretDB
// passes the arguments of each SQL statement to Logger.With twice, for debug records that are never written.
// slog.TextHandler would format these arguments in WithAttrs, even if no record follows. The arguments contain the
// bytes of uploaded files, so formatting them took half of the upload time.
type lazyHandler struct {
	next slog.Handler
	// steps contains the calls of WithAttrs and WithGroup, in order. Handle applies them to next when it writes a
	// record.
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
	h.steps = append(slices.Clip(h.steps), step) // Clip makes append copy the array, which other handlers share
	return h
}
