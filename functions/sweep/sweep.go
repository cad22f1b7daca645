package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// sweepTime is the time limit for one sweep. It is shorter than REQUEST_TIMEOUT in the sweep function's
	// manifest, so that the function can still send a response. The next sweep continues with the remaining work.
	sweepTime = 3 * time.Minute
	// stepTime is the time limit for one step of a sweep. It prevents a step with much work from using up the time of
	// the other steps.
	stepTime = 50 * time.Second
	// pageSize is the maximum number of documents per query.
	pageSize = 100
	// maxPublished is the maximum number of events that one sweep publishes.
	maxPublished = 1000
	// maxQueued is the maximum length of the event queue at which sweep publishes events. If the queue is longer, the
	// events that are already in the queue must be processed first.
	maxQueued = 1000
	// keysTime is the maximum time for which one sweep adds the keys of catalog entries.
	keysTime = 20 * time.Second
	// keysAtOnce is the number of catalog entries to which one call adds keys.
	keysAtOnce = 1000
	// maxFailures is the number of failed publications after which a sweep publishes no more events, because each
	// attempt might time out.
	maxFailures = 3
	// claimLife is the lifetime of a claim, which records the file that belongs to an Idempotency-Key. After sweep
	// has deleted the claim, a client can use the key for another file.
	claimLife = 24 * time.Hour
	// tombstoneLife is the lifetime of a mark with which functions of the previous version recognize a deleted file.
	tombstoneLife = 24 * time.Hour
)

// store contains the methods of content.Store that sweep uses.
type store interface {
	Get(ctx context.Context, id string) (content.File, error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
	CloseNote(ctx context.Context, id string) error
	Settle(ctx context.Context, note outbox.Note) error
	Discard(ctx context.Context, id string) error
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	MarkDeleted(ctx context.Context, id string) error
	PendingDeletions(ctx context.Context, at time.Time, limit int) ([]string, error)
	PostponeDeletion(ctx context.Context, id string, until time.Time) error
	Delete(ctx context.Context, id string) error
	ForgetClaims(ctx context.Context, before time.Time) (int64, error)
	ForgetDeletions(ctx context.Context, before time.Time) error
}

// notes contains the methods of outbox.Notes that sweep uses.
type notes interface {
	Adopt(ctx context.Context) error
	Due(ctx context.Context, stored bool, at time.Time, limit int) ([]outbox.Note, error)
	Postpone(ctx context.Context, id string, until time.Time) error
	Stored(ctx context.Context, id string, at time.Time, published int, due time.Time) error
	Waiting(ctx context.Context) (files int64, since time.Time, err error)
}

// catalogStore contains the methods of catalog.Store that sweep uses.
type catalogStore interface {
	Missing(ctx context.Context, ids []string) ([]string, error)
	Delete(ctx context.Context, id string) error
	AddKeys(ctx context.Context, limit int) (int, error)
}

// sweeper completes interrupted uploads and deletions, and publishes the events of files without a catalog entry. Each
// step of a sweep can be repeated safely, and several processes can run the same step at the same time.
type sweeper struct {
	// begin records that a sweep begins. If another sweep began too recently, the error wraps problem.TooManySweeps.
	begin                     func(ctx context.Context) error
	files                     store
	notes                     notes
	entries                   catalogStore
	publisher                 events.Publisher
	queueDepths               func(ctx context.Context) (events.Depths, error)
	pendingGrace, orphanGrace time.Duration
	now                       func() time.Time
}

// counts is the result of one sweep. The response body contains it as JSON.
type counts struct {
	// Published is the number of events that the sweep published because their files had no catalog entry.
	Published int `json:"published"`
	// Finished is the number of resumable uploads that the sweep committed as files because all their bytes had
	// arrived.
	Finished int `json:"finished"`
	// Discarded is the number of uploads whose bytes the sweep deleted because the uploads had not become files.
	Discarded int `json:"discarded"`
	// Deleted is the number of interrupted file deletions that the sweep completed.
	Deleted int `json:"deleted"`
	// ForgottenClaims is the number of expired claims that the sweep deleted. A claim records which file belongs to
	// an Idempotency-Key.
	ForgottenClaims int64 `json:"forgotten_claims"`
	// Failed is the number of operations that failed. The log contains their errors.
	Failed int `json:"failed"`
	// Uncataloged is the number of stored files that the sweep function has found without a catalog entry, and whose
	// notes still exist.
	Uncataloged int64 `json:"uncataloged"`
	// UncatalogedSeconds is the time since the first of the Uncataloged files was stored, in seconds.
	UncatalogedSeconds int64 `json:"uncataloged_seconds"`
	// Waiting is the number of messages in the event queue.
	Waiting int `json:"waiting"`
	// DeadLetters is the number of messages in the dead-letter queue.
	DeadLetters int `json:"dead_letters"`
}

// check returns an error that names an invalid setting.
func (cfg config) check() error {
	if cfg.PendingGrace <= 0 {
		return errors.New("PENDING_GRACE: must be positive")
	}
	if cfg.OrphanGrace < cfg.PendingGrace {
		return errors.New("ORPHAN_GRACE: must not be shorter than PENDING_GRACE")
	}
	if cfg.Interval < 0 {
		return errors.New("SWEEP_INTERVAL: must not be negative")
	}
	return nil
}

// newHandler returns a handler that runs one sweep for each POST request to / and ignores the request body. A failed
// sweep counts as a sweep, so that the event source, which retries immediately, does not repeat the whole sweep.
func newHandler(s *sweeper) http.Handler {
	serve := problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if err := s.begin(r.Context()); err != nil {
			return err
		}
		// A caller that disconnects does not end the sweep. Otherwise, it could prevent all sweeps by calling first.
		done, err := s.sweep(context.WithoutCancel(r.Context()))
		slog.InfoContext(r.Context(), "completed sweep", "published", done.Published, "finished", done.Finished,
			"discarded", done.Discarded, "deleted", done.Deleted, "failed", done.Failed, "uncataloged", done.Uncataloged,
			"uncataloged_seconds", done.UncatalogedSeconds, "waiting", done.Waiting, "dead_letters", done.DeadLetters)
		done.measure(r.Context())
		if err != nil {
			return err
		}
		return respond.JSON(w, http.StatusOK, done)
	})
	return routing.Table{"/": {http.MethodPost: serve}}.Handler()
}

// measure adds the counts of one sweep to the metrics.
func (c counts) measure(ctx context.Context) {
	for kind, n := range map[telemetry.SweptKind]int64{
		telemetry.SweptPublished: int64(c.Published), telemetry.SweptFinished: int64(c.Finished),
		telemetry.SweptDiscarded: int64(c.Discarded), telemetry.SweptDeleted: int64(c.Deleted),
		telemetry.SweptClaim: c.ForgottenClaims, telemetry.SweptFailed: int64(c.Failed),
	} {
		telemetry.Swept(ctx, kind, n)
	}
}

// run is the state of one sweep.
type run struct {
	*sweeper
	counts
	// due is the latest due time of the work that this sweep does. It is pendingGrace before the start of the sweep,
	// because another function might still be processing the client's request.
	start, due time.Time
	first      error // the first error
}

// sweep runs all steps, even if one of them fails. The returned error is the first error that occurred, so that the
// event source gets an error response.
func (s *sweeper) sweep(ctx context.Context) (counts, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	r := &run{sweeper: s, start: s.now(), due: s.now().Add(-s.pendingGrace)}
	for _, step := range []func(context.Context) error{r.finishDeletions, r.finishUploads, r.publish, r.measureWaiting, r.forget, r.addKeys} {
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		r.report(ctx, step(ctx))
		cancel()
	}
	return r.counts, r.first
}

// report logs and counts err, unless it is nil.
func (r *run) report(ctx context.Context, err error) {
	if err == nil {
		return
	}
	r.Failed++
	if r.first == nil {
		r.first = err
	}
	slog.WarnContext(ctx, "sweep step failed", "error", err)
}

// each calls visit for each item that list returns, until list returns no items. Before the call, it postpones the item
// to the start of the sweep, so that list does not return it again. If visit fails, the next sweep visits the item
// after all items that became due earlier.
func each[T any](ctx context.Context, r *run, list func() ([]T, error), postpone, visit func(T) error) error {
	for {
		page, err := list()
		if err != nil || len(page) == 0 {
			return err
		}
		for _, item := range page {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("continue with the next sweep: %w", err)
			}
			if err := postpone(item); err != nil {
				return err
			}
			r.report(ctx, visit(item))
		}
	}
}

// finishDeletions completes interrupted deletions.
func (r *run) finishDeletions(ctx context.Context) error {
	return each(ctx, r,
		func() ([]string, error) { return r.files.PendingDeletions(ctx, r.due, pageSize) },
		func(id string) error { return r.files.PostponeDeletion(ctx, id, r.start) },
		func(id string) error {
			err := r.delete(ctx, id)
			if err == nil {
				r.Deleted++
			}
			return err
		})
}

// delete deletes a file, from the first step to the last.
func (r *run) delete(ctx context.Context, id string) error {
	for _, step := range []func(context.Context, string) error{r.files.MarkDeleted, r.entries.Delete, r.files.Delete} {
		if err := step(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// finishUploads completes or discards the uploads that were interrupted.
func (r *run) finishUploads(ctx context.Context) error {
	if err := r.notes.Adopt(ctx); err != nil {
		return err
	}
	return each(ctx, r,
		func() ([]outbox.Note, error) { return r.notes.Due(ctx, false, r.due, pageSize) },
		func(n outbox.Note) error { return r.notes.Postpone(ctx, n.ID, r.start) },
		func(n outbox.Note) error { return r.finishUpload(ctx, n) })
}

// finishUpload records that an upload has become a file. If a resumable upload is complete, finishUpload first commits
// it. If an upload is neither a file nor complete, finishUpload discards it, but not before orphanGrace has passed
// since the expiration of a resumable upload or since the start of any other upload.
func (r *run) finishUpload(ctx context.Context, n outbox.Note) error {
	var ended time.Time
	if n.ExpiresAt != nil {
		ended = *n.ExpiresAt
	} else if id, err := uuid.Parse(n.ID); err == nil {
		ended = time.Unix(id.Time().UnixTime())
	}
	end := ended.Add(r.orphanGrace)
	f, found, err := r.commit(ctx, n)
	if err == nil && !found && n.Tus != nil && r.start.Before(end) {
		if err := r.notes.Postpone(ctx, n.ID, end.Add(-r.pendingGrace)); err != nil {
			return err
		}
		// Try again, because the upload might have become complete since the first attempt. In that case, the due time
		// that its writer has set is lost.
		f, found, err = r.commit(ctx, n)
	}
	switch {
	case errors.Is(err, problem.DigestMismatch):
		// The upload has ended. A later sweep deletes its note.
		slog.InfoContext(ctx, "ended an upload that does not match its digest", "id", n.ID, "error", err)
		return nil
	case err != nil:
		return err
	case found && n.Previous && f.Key != "" && r.start.Sub(f.StoredAt) < claimLife:
		return r.claim(ctx, n, f)
	case found:
		return r.stored(ctx, n, f)
	case r.start.Before(end): // the upload can become a file at any time, so a later sweep visits it again
		return nil
	}
	if err := r.files.Discard(ctx, n.ID); err != nil {
		return err
	}
	r.Discarded++
	return nil
}

// commit returns the file of an upload. If a resumable upload is complete but not a file, commit first commits it.
func (r *run) commit(ctx context.Context, n outbox.Note) (_ content.File, found bool, err error) {
	f, err := r.files.Get(ctx, n.ID)
	if errors.Is(err, problem.NotFound) && n.Tus != nil {
		// Commit the upload here, because the process that received the last bytes might have been killed before the
		// commit. The client might not send another request, because it has no bytes left to send.
		f, err = r.files.Finish(ctx, n.ID, func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) })
		if err == nil {
			r.Finished++
		}
	}
	if errors.Is(err, problem.NotFound) || errors.Is(err, problem.Conflict) { // a conflict means that bytes are missing
		return content.File{}, false, nil
	}
	return f, err == nil, err
}

// claim claims the idempotency key of a file that the previous version stored, because the previous version claims a
// key only after the commit. If another file already has the key, claim deletes f.
func (r *run) claim(ctx context.Context, n outbox.Note, f content.File) error {
	first, err := r.files.Claim(ctx, f.Key, f)
	if err != nil {
		return err
	}
	if first.ID != f.ID {
		return r.delete(ctx, f.ID)
	}
	return r.stored(ctx, n, f)
}

// stored records that the upload of the note n has become the file f.
func (r *run) stored(ctx context.Context, n outbox.Note, f content.File) error {
	if err := r.files.Settle(ctx, n); err != nil {
		return err
	}
	return r.notes.Stored(ctx, n.ID, f.StoredAt, 0, f.StoredAt)
}

// publish publishes the events of files that have no catalog entry. If the event queue is longer than maxQueued,
// publish only records the lengths of the queues.
func (r *run) publish(ctx context.Context) error {
	depths, err := r.queueDepths(ctx)
	if err != nil {
		return err
	}
	r.Waiting, r.DeadLetters = depths.Waiting, depths.Dead
	telemetry.Queues(ctx, depths.Waiting, depths.Dead)
	if depths.Waiting > maxQueued {
		return nil
	}
	due, err := r.notes.Due(ctx, true, r.due, maxPublished)
	if err != nil || len(due) == 0 {
		return err
	}
	ids := make([]string, len(due))
	for i, n := range due {
		ids[i] = n.ID
	}
	missing, err := r.entries.Missing(ctx, ids)
	if err != nil {
		return err
	}
	for failures := 0; len(due) > 0 && failures < maxFailures; due = due[1:] {
		n := due[0]
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("continue with the next sweep: %w", err)
		}
		// Postpone the note first. If a later step fails, the next sweeps then visit the other due notes before this
		// note.
		if err := r.notes.Postpone(ctx, n.ID, r.start); err != nil {
			return err
		}
		if !slices.Contains(missing, n.ID) {
			r.report(ctx, r.files.CloseNote(ctx, n.ID))
			continue
		}
		f, err := r.files.Get(ctx, n.ID)
		if errors.Is(err, problem.NotFound) { // the file was deleted
			r.report(ctx, r.files.Discard(ctx, n.ID))
			continue
		}
		var e event.Event
		if err == nil {
			e, err = events.Parse(f.Event)
		}
		if err != nil {
			r.report(ctx, fmt.Errorf("read the event of file %s: %w", n.ID, err))
			continue
		}
		// The event has the same ID each time, so a second delivery does no harm.
		if err := r.publisher.Publish(ctx, e); err != nil {
			r.report(ctx, fmt.Errorf("publish the event of file %s: %w", n.ID, err))
			failures++
			continue
		}
		r.Published++
		published := n.Published + 1
		next := r.start.Add(outbox.Interval(published, r.pendingGrace) - r.pendingGrace)
		r.report(ctx, r.notes.Stored(ctx, n.ID, *n.StoredAt, published, next))
	}
	return nil
}

// measureWaiting measures how many files wait for their catalog entries, and for how long.
func (r *run) measureWaiting(ctx context.Context) error {
	files, since, err := r.notes.Waiting(ctx)
	if err != nil {
		return err
	}
	if r.Uncataloged = files; files > 0 {
		r.UncatalogedSeconds = int64(r.start.Sub(since).Seconds())
	}
	telemetry.Uncataloged(ctx, r.Uncataloged, r.UncatalogedSeconds)
	return nil
}

// forget deletes expired data.
func (r *run) forget(ctx context.Context) (err error) {
	r.ForgottenClaims, err = r.files.ForgetClaims(ctx, r.start.Add(-claimLife))
	return errors.Join(err, r.files.ForgetDeletions(ctx, r.start.Add(-tombstoneLife)))
}

// addKeys adds the keys to the catalog entries that the previous version inserted. Functions of the previous version
// can insert entries without keys while an upgrade is in progress.
func (r *run) addKeys(ctx context.Context) error {
	added := 0
	for end := r.now().Add(keysTime); r.now().Before(end); {
		n, err := r.entries.AddKeys(ctx, keysAtOnce)
		if err != nil {
			return err
		}
		if added += n; n < keysAtOnce {
			break
		}
	}
	if added > 0 {
		slog.InfoContext(ctx, "added the keys of catalog entries", "entries", added)
	}
	return nil
}
