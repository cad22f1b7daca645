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
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// recordTimeout is the time limit for all database calls for one event. After this time, the response is a 503, so that
// the event source sends the event again.
const recordTimeout = 10 * time.Second

// catalogStore contains the methods of catalog.Store that the record function uses.
type catalogStore interface {
	// Insert adds e to the catalog and returns true. If an entry with the same ID already exists, Insert changes
	// nothing and returns false.
	Insert(ctx context.Context, e catalog.Entry) (inserted bool, err error)
	Delete(ctx context.Context, id string) error
}

// store contains the methods of content.Store that the record function uses.
type store interface {
	Get(ctx context.Context, id string) (content.File, error)
	IsDeleted(ctx context.Context, id string) (bool, error)
	CloseNote(ctx context.Context, id string) error
}

// handler receives events from an event source. It responds only with 204, 422 or 503, because the effect of other
// statuses depends on the event source.
type handler struct {
	catalog catalogStore
	files   store
	now     func() time.Time
}

func newHandler(catalog catalogStore, files store, now func() time.Time) http.Handler {
	return &handler{catalog, files, now}
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
		telemetry.Record(r.Context(), telemetry.RecordPoison)
	} else {
		// The cause might be an unavailable store, or a bug that a later deployment fixes. Respond with a 503, so that
		// the event source retries with backoff before the event becomes a dead letter.
		err = problem.Unavailable.Because(err, "the catalog entry cannot be written right now")
		telemetry.Record(r.Context(), telemetry.RecordUnavailable)
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

// record writes the catalog entry for the file that the event in r names. The error wraps problem.Unprocessable if
// every delivery of the event would fail.
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
	_, announced, err := events.Decode(r.Header, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), recordTimeout)
	defer cancel()
	return h.catalogue(ctx, announced.ID)
}

// catalogue adds the file with the given ID to the catalog, if the file exists. It takes all values from the stored
// file, because an event could be old or forged.
func (h *handler) catalogue(ctx context.Context, id string) error {
	f, err := h.files.Get(ctx, id)
	if errors.Is(err, problem.NotFound) {
		if err := h.gone(ctx, id); err != nil {
			return err
		}
		// Get the file again, because a forged event can name an upload in progress. If the upload has become a file
		// since the first call, gone might have deleted the new entry.
		if f, err = h.files.Get(ctx, id); errors.Is(err, problem.NotFound) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("read file %s: %w", id, err)
	}
	inserted, err := h.catalog.Insert(ctx, catalog.Entry{Info: f.Info, CataloguedAt: h.now().UTC()})
	if err != nil {
		return fmt.Errorf("add file %s to the catalog: %w", id, err)
	}
	// Check the file again, because the catalog must not list a deleted file. A deletion deletes the file before the
	// entry. Therefore, if the file still exists, a later deletion also deletes the entry that now exists.
	deleted, err := h.files.IsDeleted(ctx, id)
	if err != nil {
		return fmt.Errorf("check whether file %s was deleted: %w", id, err)
	}
	if deleted {
		return h.gone(ctx, id)
	}
	// Close the note last. If an earlier step fails, the note remains, and the sweep function publishes the event
	// again.
	if err := h.files.CloseNote(ctx, id); err != nil {
		return fmt.Errorf("close the note of file %s: %w", id, err)
	}
	if inserted {
		after := h.now().Sub(f.StoredAt)
		slog.InfoContext(ctx, "cataloged file", "file", id, "after_ms", after.Milliseconds())
		telemetry.Record(ctx, telemetry.RecordCatalogued)
		telemetry.RecordDelay(ctx, after)
		return nil
	}
	// Return no error, so that the event source acknowledges the event. A source can deliver an event twice, and the
	// upload and sweep functions can both publish it.
	slog.InfoContext(ctx, "file is already in the catalog", "file", id)
	telemetry.Record(ctx, telemetry.RecordDuplicate)
	return nil
}

// gone deletes the catalog entry of a file that does not exist, if there is an entry. It returns no error if that
// succeeds, so that the event source acknowledges the event.
func (h *handler) gone(ctx context.Context, id string) error {
	if err := h.catalog.Delete(ctx, id); err != nil {
		return fmt.Errorf("remove file %s, which does not exist, from the catalog: %w", id, err)
	}
	slog.InfoContext(ctx, "file does not exist", "file", id)
	telemetry.Record(ctx, telemetry.RecordDeleted)
	return nil
}
