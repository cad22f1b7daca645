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

// insertTimeout is the total time limit for the record function's store calls for one event. After this time, the
// function responds with a 503, so that the event source sends the event again.
const insertTimeout = 10 * time.Second

// catalogStore contains the methods of catalog.Store that the record function uses.
type catalogStore interface {
	// Insert adds e and reports true. If an entry with the same ID already exists, Insert changes nothing and reports
	// false.
	Insert(ctx context.Context, e catalog.Entry) (inserted bool, err error)
	Delete(ctx context.Context, id string) error
}

// tombstones contains the method of content.Store that the record function uses. A tombstone marks a deleted file.
type tombstones interface {
	IsDeleted(ctx context.Context, id string) (bool, error)
}

// handler receives events from an event source. The source evaluates only the status of the response:
//
//   - 2xx: the source acknowledges the message.
//   - 503: the source sends the message again after a backoff. If the last retry fails, the message becomes a dead
//     letter.
//   - 422: the message becomes a dead letter immediately.
//
// handler returns no other status, because the effect of any other status depends on the source. For example,
// eventing-rabbitmq retries after a 404, but not after a 500. function.Wrap returns 400 for a malformed query string
// before handler gets the request, but no source sends a query string.
type handler struct {
	catalog    catalogStore
	tombstones tombstones
	now        func() time.Time
}

func newHandler(catalog catalogStore, tombstones tombstones, now func() time.Time) http.Handler {
	return &handler{catalog, tombstones, now}
}

// ServeHTTP handles one event. It responds only with the statuses that the comment on handler lists.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.guard(w, r)
	if err == nil {
		// Respond with a 204, which makes the source acknowledge the message. The response has no body, because a
		// broker would treat a body as a reply event.
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if errors.Is(err, problem.Unprocessable) {
		// A 422 turns the message into a dead letter immediately. A retry would be useless, because every further
		// delivery would fail in the same way.
		slog.WarnContext(r.Context(), "rejected event", "error", err)
		telemetry.Record(r.Context(), "poison")
	} else {
		// Respond with a 503, so that the source retries. The event itself might be valid, because the error can be due
		// to an unavailable store, or to a bug in this function that a later deployment can fix. If all retries fail,
		// the event becomes a dead letter, so it is not lost.
		err = problem.Unavailable.Because(err, "the catalog entry cannot be written right now")
		telemetry.Record(r.Context(), "unavailable")
	}
	problem.Write(w, r, err)
}

// guard calls record and converts a panic to an error. Without guard, function.Wrap would respond to a panic with a
// 500, and the source would not retry, although the next delivery might succeed.
func (h *handler) guard(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return h.record(w, r)
}

// record writes the catalog entry for the event in r. If the entry now exists or the file was deleted, record returns
// nil, so that the source does not send the event again. If every delivery of the event would fail, the error wraps
// problem.Unprocessable. After any other error, a later delivery might succeed.
func (h *handler) record(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		// Event sources use only POST, so another client sent this request. A 405 would be usual, but handler returns
		// only statuses that have the same effect for every event source.
		return problem.Unprocessable.With("send the event with POST")
	}
	body, err := request.ReadBody(w, r, events.MaxBody)
	if errors.Is(err, problem.TooLarge) {
		return problem.Unprocessable.With("the event may have at most %d bytes", events.MaxBody)
	} else if err != nil {
		// The source or the network failed before the whole body arrived. Return an error that makes the source retry,
		// because the next delivery might contain the whole body.
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
	// The user might have deleted the file before this delivery. A deletion first writes a tombstone, which marks the
	// file as deleted, and then deletes the catalog entry. Therefore, if the tombstone does not exist yet, the deletion
	// will delete the entry that Insert has just added. Check for the tombstone even if the entry already existed,
	// because the process that inserted the entry might have been killed before its own check.
	deleted, err := h.tombstones.IsDeleted(ctx, f.ID)
	if err != nil {
		return fmt.Errorf("check whether file %s was deleted: %w", f.ID, err)
	}
	switch {
	case deleted:
		if err := h.catalog.Delete(ctx, f.ID); err != nil {
			return fmt.Errorf("remove deleted file %s from the catalog: %w", f.ID, err)
		}
		// Return no error, so that the source acknowledges the message. A deleted file needs no catalog entry.
		slog.InfoContext(ctx, "file was deleted before it was cataloged", "file", f.ID)
		telemetry.Record(ctx, "deleted")
	case inserted:
		after := h.now().Sub(f.StoredAt)
		slog.InfoContext(ctx, "cataloged file", "file", f.ID, "after_ms", after.Milliseconds())
		telemetry.Record(ctx, "catalogued")
		telemetry.RecordDelay(ctx, after)
	default:
		// Return no error, because the existing entry was written from the same event. An event can arrive twice,
		// because a source can deliver it twice, and because the upload and sweep functions can both publish it.
		slog.InfoContext(ctx, "file is already in the catalog", "file", f.ID)
		telemetry.Record(ctx, "duplicate")
	}
	return nil
}
