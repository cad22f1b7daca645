package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// insertTimeout limits the total time of the store calls for one event. After this time, the response is a 503, so
// that the event source sends the event again.
const insertTimeout = 10 * time.Second

// catalogStore contains the methods of catalog.Store that the record function uses.
type catalogStore interface {
	// Insert adds e to the catalog and returns true. If an entry with the same ID already exists, Insert changes
	// nothing and returns false.
	Insert(ctx context.Context, e catalog.Entry) (inserted bool, err error)
	Delete(ctx context.Context, id string) error
}

// tombstones contains the method of content.Store that the record function uses. A tombstone marks a deleted file.
type tombstones interface {
	IsDeleted(ctx context.Context, id string) (bool, error)
}

// handler receives events from an event source. It responds only with 204, 422 or 503, because the effect of other
// statuses depends on the event source.
type handler struct {
	catalog    catalogStore
	tombstones tombstones
	now        func() time.Time
}

func newHandler(catalog catalogStore, tombstones tombstones, now func() time.Time) http.Handler {
	return &handler{catalog, tombstones, now}
}

// ServeHTTP handles one event. Event sources send no query string, so they never receive the 400 that function.Wrap
// sends for a malformed query string.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.guard(w, r)
	if err == nil {
		// Respond with a 204, which makes the event source acknowledge the event. The response has no body, because a
		// broker would treat a body as a reply event.
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if errors.Is(err, problem.Unprocessable) {
		// Respond with a 422, which makes the event a dead letter immediately, because every retry would fail.
		slog.WarnContext(r.Context(), "rejected event", "error", err)
		telemetry.Record(r.Context(), "poison")
	} else {
		// The cause might be an unavailable store, or a bug that a later deployment fixes. Respond with a 503, so that
		// the event source retries with backoff before the event becomes a dead letter.
		err = problem.Unavailable.Because(err, "the catalog entry cannot be written right now")
		telemetry.Record(r.Context(), "unavailable")
	}
	problem.Write(w, r, err)
}

// guard calls the record method and converts a panic to an error. Otherwise, function.Wrap would respond to the panic
// with a 500, and eventing-rabbitmq does not retry after a 500.
func (h *handler) guard(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return h.record(w, r)
}

// record writes the catalog entry for the event in r. The error wraps problem.Unprocessable if every delivery of the
// event would fail.
func (h *handler) record(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		// Do not return a 405, because its effect depends on the event source.
		return problem.Unprocessable.With("send the event with POST")
	}
	body, err := request.ReadBody(w, r, events.MaxBody)
	if errors.Is(err, problem.TooLarge) {
		return problem.Unprocessable.With("the event may have at most %d bytes", events.MaxBody)
	} else if err != nil {
		// The event source or the network failed before the whole body arrived. Return an error that makes the event
		// source retry, because the next delivery might contain the whole body.
		return err
	}
	_, f, err := events.Decode(r.Header, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), insertTimeout)
	defer cancel()
	inserted, err := h.catalog.Insert(ctx, catalog.Entry{Info: f, CataloguedAt: h.now().UTC()})
	if err != nil {
		return fmt.Errorf("add file %s to the catalog: %w", f.ID, err)
	}
	// The catalog must not list a deleted file. A deletion writes a tombstone (a marker for the deleted file) before
	// it deletes the catalog entry. Therefore, if this check finds no tombstone, a later deletion also deletes the
	// entry that now exists.
	deleted, err := h.tombstones.IsDeleted(ctx, f.ID)
	if err != nil {
		return fmt.Errorf("check whether file %s was deleted: %w", f.ID, err)
	}
	switch {
	case deleted:
		// Delete the entry even if another process inserted it, because that process might have been killed before
		// it checked whether the file was deleted.
		if err := h.catalog.Delete(ctx, f.ID); err != nil {
			return fmt.Errorf("remove deleted file %s from the catalog: %w", f.ID, err)
		}
		// Return no error, so that the event source acknowledges the event. A deleted file needs no catalog entry.
		slog.InfoContext(ctx, "file was deleted before it was cataloged", "file", f.ID)
		telemetry.Record(ctx, "deleted")
	case inserted:
		after := h.now().Sub(f.StoredAt)
		slog.InfoContext(ctx, "cataloged file", "file", f.ID, "after_ms", after.Milliseconds())
		telemetry.Record(ctx, "catalogued")
		telemetry.RecordDelay(ctx, after)
	default:
		// Return no error, because the existing entry is from the same event. A source can deliver an event twice, and
		// the upload and sweep functions can both publish it.
		slog.InfoContext(ctx, "file is already in the catalog", "file", f.ID)
		telemetry.Record(ctx, "duplicate")
	}
	return nil
}
