package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// sweepTime is the time limit for one sweep. It is shorter than REQUEST_TIMEOUT in the sweep function's
	// manifest, so that the function can still send a response. The next sweep continues with the remaining work.
	sweepTime = 3 * time.Minute
	// pageSize is the maximum number of documents per query.
	pageSize = 100
	// claimLife is the lifetime of a claim, which records the file that belongs to an Idempotency-Key. After sweep
	// has deleted the claim, a client can use the key for another file.
	claimLife = 24 * time.Hour
	// tombstoneLife is the lifetime of a tombstone, which marks a file as deleted. It must exceed the longest
	// expected event delay, because the tombstone lets the record function recognize a late event for a deleted file.
	tombstoneLife = 30 * 24 * time.Hour
)

// store contains the methods of content.Store that sweep uses.
type store interface {
	Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]content.Pending, error)
	Get(ctx context.Context, id string) (content.File, error)
	Event(ctx context.Context, id string) ([]byte, error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
	Confirm(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	MarkDeleted(ctx context.Context, id string) error
	PendingDeletions(ctx context.Context, before time.Time, after string, limit int) ([]string, error)
	Delete(ctx context.Context, id string) error
	ForgetClaims(ctx context.Context, before time.Time) (int64, error)
	ForgetDeletions(ctx context.Context, before time.Time) (int64, error)
}

// catalogStore contains the method of catalog.Store that sweep uses.
type catalogStore interface {
	Delete(ctx context.Context, id string) error
}

// sweeper completes interrupted uploads and deletions. Each step of a sweep can be repeated safely, and several
// processes can run the same step at the same time.
type sweeper struct {
	files                     store
	entries                   catalogStore
	publisher                 events.Publisher
	queueDepths               func(ctx context.Context) (events.Depths, error)
	pendingGrace, orphanGrace time.Duration
	now                       func() time.Time
}

// counts is the result of one sweep. The response body contains it as JSON.
type counts struct {
	// Published is the number of events that the sweep published because the broker had not confirmed them.
	Published int `json:"published"`
	// Duplicates is the number of files that the sweep deleted because another file was already recorded for the
	// same Idempotency-Key.
	Duplicates int `json:"duplicates"`
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
	// ForgottenTombstones is the number of expired tombstones (markers for deleted files) that the sweep deleted.
	ForgottenTombstones int64 `json:"forgotten_tombstones"`
	// Failed is the number of steps that failed. The log contains their errors.
	Failed int `json:"failed"`
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
	return nil
}

// newHandler returns a handler that runs one sweep for each POST request to / and ignores the request body.
func newHandler(s *sweeper) http.Handler {
	serve := problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		done, err := s.sweep(r.Context())
		slog.InfoContext(r.Context(), "completed sweep", "published", done.Published, "duplicates", done.Duplicates,
			"finished", done.Finished, "discarded", done.Discarded, "deleted", done.Deleted, "failed", done.Failed,
			"waiting", done.Waiting, "dead_letters", done.DeadLetters)
		done.measure(r.Context())
		if err != nil {
			return err
		}
		return respond.JSON(w, http.StatusOK, done)
	})
	return routing.Table{"/": {http.MethodPost: serve}}.Handler()
}

// sweep runs all steps, even if one of them fails. sweepTime is the time limit for all steps together. The returned
// error is the first error that occurred, so that the event source gets an error response.
func (s *sweeper) sweep(ctx context.Context) (counts, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	var done counts
	var first error
	report := func(err error) {
		if err == nil {
			return
		}
		done.Failed++
		if first == nil {
			first = err
		}
		slog.WarnContext(ctx, "sweep step failed", "error", err)
	}
	now := s.now()
	report(s.finishDeletions(ctx, now, &done, report))
	report(s.finishUploads(ctx, now, &done, report))
	var err error
	done.ForgottenClaims, err = s.files.ForgetClaims(ctx, now.Add(-claimLife))
	report(err)
	done.ForgottenTombstones, err = s.files.ForgetDeletions(ctx, now.Add(-tombstoneLife))
	report(err)
	depths, err := s.queueDepths(ctx)
	report(err)
	done.Waiting, done.DeadLetters = depths.Waiting, depths.Dead
	if err == nil {
		telemetry.Queues(ctx, depths.Waiting, depths.Dead)
	}
	return done, first
}

// measure adds the counts of one sweep to the metrics.
func (c counts) measure(ctx context.Context) {
	for what, n := range map[string]int64{
		"published": int64(c.Published), "duplicate": int64(c.Duplicates), "finished": int64(c.Finished), "discarded": int64(c.Discarded),
		"deleted": int64(c.Deleted), "claim": c.ForgottenClaims, "tombstone": c.ForgottenTombstones, "failed": int64(c.Failed),
	} {
		telemetry.Swept(ctx, what, n)
	}
}

// finishDeletions completes interrupted deletions. If it cannot delete a file, it calls report with the error and
// continues with the next file.
func (s *sweeper) finishDeletions(ctx context.Context, now time.Time, done *counts, report func(error)) error {
	for after := ""; ; {
		ids, err := s.files.PendingDeletions(ctx, now.Add(-s.pendingGrace), after, pageSize)
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			after = id
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("complete interrupted deletions: %w", err)
			}
			if err := s.delete(ctx, id); err != nil {
				report(err)
				continue
			}
			done.Deleted++
		}
	}
}

// delete completes the deletion of a file. It deletes the catalog entry first, so that the catalog never lists a file
// whose bytes no longer exist.
func (s *sweeper) delete(ctx context.Context, id string) error {
	if err := s.entries.Delete(ctx, id); err != nil {
		return err
	}
	return s.files.Delete(ctx, id)
}

// finishUploads handles interrupted uploads. If an upload is already stored as a file, finishUploads publishes the
// file's event. Otherwise, it calls finish for a resumable upload, and discard for any other upload. It passes each
// error to report, and then continues with the next upload.
func (s *sweeper) finishUploads(ctx context.Context, now time.Time, done *counts, report func(error)) error {
	brokerAway := false
	for after := ""; ; {
		page, err := s.files.Unfinished(ctx, now.Add(-s.pendingGrace), after, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, u := range page {
			after = u.ID
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("complete interrupted uploads: %w", err)
			}
			f, err := s.files.Get(ctx, u.ID)
			switch {
			case errors.Is(err, problem.NotFound) && u.Resumable:
				err = s.finish(ctx, now, u, done)
			case errors.Is(err, problem.NotFound):
				err = s.discard(ctx, now, u, done)
			case err == nil && now.Sub(f.StoredAt) < s.pendingGrace:
				// Skip a recently stored file, because the upload function might still be processing it.
			case err == nil && !brokerAway:
				err = s.announce(ctx, f, done)
				// If an event cannot be published, skip the remaining events, because each attempt might time out.
				brokerAway = errors.Is(err, errNotPublished)
			}
			report(err)
		}
	}
}

// finish commits a resumable upload as a file if all its bytes are stored, and calls discard otherwise. For a
// committed file, a later sweep publishes the event that announces the file.
func (s *sweeper) finish(ctx context.Context, now time.Time, u content.Pending, done *counts) error {
	// Commit the upload here, because the process that received the last bytes might have been killed before the
	// commit. The client might not send another request, because it has no bytes left to send.
	_, err := s.files.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) })
	switch {
	case err == nil:
		done.Finished++
		return nil
	case errors.Is(err, problem.Conflict), errors.Is(err, problem.NotFound): // incomplete or terminated upload
		return s.discard(ctx, now, u, done)
	}
	return err
}

// discard deletes the bytes of an upload that did not become a file. It does nothing until orphanGrace has passed
// since the expiration of a resumable upload or the start of a single-request upload.
func (s *sweeper) discard(ctx context.Context, now time.Time, u content.Pending, done *counts) error {
	ended := u.ExpiresAt
	if !u.Resumable {
		id, err := uuid.Parse(u.ID)
		if err != nil {
			return fmt.Errorf("parse upload ID %q: %w", u.ID, err)
		}
		ended = time.Unix(id.Time().UnixTime())
	}
	if now.Sub(ended) < s.orphanGrace {
		return nil // the client might continue the upload, or a request might still be sending bytes
	}
	if err := s.files.Discard(ctx, u.ID); err != nil {
		return err
	}
	done.Discarded++
	return nil
}

// errNotPublished reports that announce failed because the publisher returned an error.
var errNotPublished = errors.New("the event publisher returned an error")

// announce publishes the event that announces file f. If f's Idempotency-Key is already recorded for another file,
// announce deletes f and its catalog entry instead.
func (s *sweeper) announce(ctx context.Context, f content.File, done *counts) error {
	if f.Key != "" {
		first, err := s.files.Claim(ctx, f.Key, f)
		if err != nil {
			return err
		}
		if first.ID != f.ID {
			// Write a tombstone, which marks f as deleted, so that an event for f that has already been published
			// does not add f to the catalog.
			if err := s.files.MarkDeleted(ctx, f.ID); err != nil {
				return err
			}
			if err := s.delete(ctx, f.ID); err != nil {
				return err
			}
			done.Duplicates++
			return nil
		}
	}
	e, err := events.Load(ctx, s.files, f.ID)
	if err != nil {
		return err
	}
	// The event has the same ID each time, so a second delivery does no harm.
	if err := s.publisher.Publish(ctx, e); err != nil {
		return fmt.Errorf("announce file %s: %w: %w", f.ID, errNotPublished, err)
	}
	if err := s.files.Confirm(ctx, f.ID); err != nil {
		return err
	}
	done.Published++
	return nil
}
