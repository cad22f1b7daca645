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
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// insertTimeout bounds the writing of one entry. The source waits that long at most before it tries again.
const insertTimeout = 10 * time.Second

// catalogue is where entries go; see catalog.Store.
type catalogue interface {
	// Insert adds e, or reports false if an entry with e's id is there already.
	Insert(ctx context.Context, e catalog.Entry) (inserted bool, err error)
	Delete(ctx context.Context, id string) error
}

// tombstones are what deleted files leave; see content.Store.
type tombstones interface {
	Buried(ctx context.Context, id string) (bool, error)
}

// handler responds to an event source, which reads the status only:
//
//   - 2xx: the source acknowledges the message.
//   - 503: the source sends the message again after a while. When it has no retries left, the message becomes a dead letter.
//   - 422: the message becomes a dead letter immediately.
//
// Any other status would have one of the last two effects, and the effect depends on the source: eventing-rabbitmq retries
// after a 404 and stops after a 500. So handler returns no other status for any request. function.Wrap returns 400 for a
// query string that cannot be parsed, before handler gets the request, but no source sends a query string.
type handler struct {
	catalogue  catalogue
	tombstones tombstones
	now        func() time.Time
}

func newHandler(c catalogue, d tombstones, now func() time.Time) http.Handler {
	return &handler{c, d, now}
}

// ServeHTTP takes one event.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.guard(w, r)
	if err == nil {
		// Acknowledged. No body: a broker would take it for an event in reply.
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if errors.Is(err, problem.Unprocessable) {
		// Dropped, that is to say dead-lettered: it would fail in the same way each time.
		slog.WarnContext(r.Context(), "poison", "error", err)
		telemetry.Record(r.Context(), "poison")
	} else {
		// Retried: nothing is wrong with the event as far as we know. The catalogue is away, or we have a bug that
		// the next deployment mends; until then the event is safe with the broker, at last among its dead letters.
		err = problem.Unavailable.Because(err, "the catalogue entry can not be written right now")
		telemetry.Record(r.Context(), "unavailable")
	}
	problem.Write(w, r, err)
}

// guard calls record and returns a panic as an error: the runtime would answer it with a 500, on which the source
// gives up, and a panic may be over at the next try.
func (h *handler) guard(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return h.record(w, r)
}

// record writes the catalogue entry for the event in r. It returns nil if the entry exists. It returns an error that wraps
// problem.Unprocessable if the event can never have an entry, and any other error if a later delivery may succeed.
func (h *handler) record(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		// Not from a source. A 405 would be right for people, but see handler.
		return problem.Unprocessable.With("an event comes by POST")
	}
	body, err := function.ReadBody(w, r, events.MaxBody)
	if errors.Is(err, problem.TooLarge) {
		return problem.Unprocessable.With("the event is larger than %d bytes", events.MaxBody)
	} else if err != nil {
		// Retried: the sender or the network failed, so the next delivery may have the whole body.
		return err
	}
	_, f, err := events.Decode(r.Header, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), insertTimeout)
	defer cancel()
	inserted, err := h.catalogue.Insert(ctx, catalog.Entry{
		ID:           f.ID,
		Owner:        f.Owner,
		Name:         f.Name,
		Size:         f.Size,
		SHA256:       f.SHA256,
		ContentType:  f.ContentType,
		StoredAt:     f.StoredAt,
		CataloguedAt: h.now().UTC(),
	})
	if err != nil {
		return fmt.Errorf("catalogue file %s: %w", f.ID, err)
	}
	// Its user may have deleted the file before this event came, or came again. A deletion sets the tombstone first and
	// deletes the entry then: so either the tombstone is seen here, or the entry is seen there. That holds for an entry that
	// was there before, too: whoever inserted it may have died before he asked.
	buried, err := h.tombstones.Buried(ctx, f.ID)
	if err != nil {
		return fmt.Errorf("look for the tombstone of file %s: %w", f.ID, err)
	}
	switch {
	case buried:
		if err := h.catalogue.Delete(ctx, f.ID); err != nil {
			return fmt.Errorf("take back the entry of the deleted file %s: %w", f.ID, err)
		}
		// Acknowledged: there is nothing to catalogue any more.
		slog.InfoContext(ctx, "deleted before it was catalogued", "file", f.ID)
		telemetry.Record(ctx, "deleted")
	case inserted:
		after := h.now().Sub(f.StoredAt)
		slog.InfoContext(ctx, "catalogued", "file", f.ID, "after_ms", after.Milliseconds())
		telemetry.Record(ctx, "catalogued")
		telemetry.RecordDelay(ctx, after)
	default:
		// Acknowledged: sources deliver at least once, upload and sweep may publish twice, and what is there was
		// written from the same event.
		slog.InfoContext(ctx, "catalogued before", "file", f.ID)
		telemetry.Record(ctx, "duplicate")
	}
	return nil
}
