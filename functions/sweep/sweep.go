package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// sweepTime bounds one sweep, under its manifest's REQUEST_TIMEOUT. What it does not get to, the next one does.
	sweepTime = 3 * time.Minute
	// pageSize is how many notes are read at once.
	pageSize = 100
	// claimLife is how long an Idempotency-Key is remembered.
	claimLife = 24 * time.Hour
	// tombstoneLife is how long it is remembered that a file was deleted: longer than any event waits in a queue.
	tombstoneLife = 30 * 24 * time.Hour
)

// store is where files are kept; see content.Store.
type store interface {
	Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]content.Unfinished, error)
	Get(ctx context.Context, id string) (content.File, error)
	Event(ctx context.Context, id string) ([]byte, error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
	Confirm(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, []byte, error)
	Bury(ctx context.Context, id string) error
	Graves(ctx context.Context, before time.Time, after string, limit int) ([]string, error)
	Delete(ctx context.Context, id string) error
	ForgetClaims(ctx context.Context, before time.Time) (int64, error)
	Unearth(ctx context.Context, before time.Time) (int64, error)
}

// catalogue is where entries are; see catalog.Store.
type catalogue interface {
	Delete(ctx context.Context, id string) error
}

// sweeper finishes what others could not. Every step is safe to be done twice, and by two at once.
type sweeper struct {
	files                     store
	catalogue                 catalogue
	publisher                 events.Publisher
	lengths                   func(ctx context.Context) (events.Depths, error)
	pendingGrace, orphanGrace time.Duration
	now                       func() time.Time
}

// counts is what one sweep has done, and the answer to who asked for it.
type counts struct {
	// Published events, of files whose upload did not get to know that its event had arrived.
	Published int `json:"published"`
	// Duplicates are files that were sent again under the Idempotency-Key of another.
	Duplicates int `json:"duplicates"`
	// Finished uploads in many requests, that had all their bytes and were no file yet.
	Finished int `json:"finished"`
	// Discarded uploads, that left bytes and no file.
	Discarded int `json:"discarded"`
	// Deleted files, of which somebody had begun to delete them.
	Deleted int `json:"deleted"`
	// ForgottenClaims are those of keys, and ForgottenTombstones those of files, that were past their time.
	ForgottenClaims     int64 `json:"forgotten_claims"`
	ForgottenTombstones int64 `json:"forgotten_tombstones"`
	// Failed is how many of the steps did not succeed; the log says why.
	Failed int `json:"failed"`
	// Waiting and DeadLetters are what is in the queues.
	Waiting     int `json:"waiting"`
	DeadLetters int `json:"dead_letters"`
}

// newHandler answers every POST with one sweep, whatever is in its body: the call is the message.
func newHandler(s *sweeper) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Path != "/" {
			return problem.NotFound.With("there is nothing at this path")
		}
		if r.Method != http.MethodPost {
			return problem.MethodNotAllowed.With("use POST").Header("Allow", http.MethodPost)
		}
		done, err := s.sweep(r.Context())
		slog.InfoContext(r.Context(), "swept", "published", done.Published, "duplicates", done.Duplicates,
			"finished", done.Finished, "discarded", done.Discarded, "deleted", done.Deleted, "failed", done.Failed,
			"waiting", done.Waiting, "dead_letters", done.DeadLetters)
		done.measure(r.Context())
		if err != nil {
			return err
		}
		return problem.JSON(w, http.StatusOK, done)
	})
}

// sweep does all there is to do, as far as it gets. A step that fails stops none of the others, but the first error is
// returned, so that it shows with whoever called.
func (s *sweeper) sweep(ctx context.Context) (counts, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	var done counts
	var first error
	failed := func(err error) {
		if err == nil {
			return
		}
		done.Failed++
		if first == nil {
			first = err
		}
		slog.WarnContext(ctx, "a step of the sweep failed", "error", err)
	}
	now := s.now()
	failed(s.finishDeletions(ctx, now, &done, failed))
	failed(s.finishUploads(ctx, now, &done, failed))
	var err error
	done.ForgottenClaims, err = s.files.ForgetClaims(ctx, now.Add(-claimLife))
	failed(err)
	done.ForgottenTombstones, err = s.files.Unearth(ctx, now.Add(-tombstoneLife))
	failed(err)
	depths, err := s.lengths(ctx)
	failed(err)
	done.Waiting, done.DeadLetters = depths.Waiting, depths.Dead
	if err == nil {
		telemetry.Queues(ctx, depths.Waiting, depths.Dead)
	}
	return done, first
}

// measure adds what one sweep has done to the metrics.
func (c counts) measure(ctx context.Context) {
	for what, n := range map[string]int64{
		"published": int64(c.Published), "duplicate": int64(c.Duplicates), "finished": int64(c.Finished), "discarded": int64(c.Discarded),
		"deleted": int64(c.Deleted), "claim": c.ForgottenClaims, "tombstone": c.ForgottenTombstones, "failed": int64(c.Failed),
	} {
		telemetry.Swept(ctx, what, n)
	}
}

// finishDeletions goes on where a deletion was interrupted.
func (s *sweeper) finishDeletions(ctx context.Context, now time.Time, done *counts, failed func(error)) error {
	for after := ""; ; {
		ids, err := s.files.Graves(ctx, now.Add(-s.pendingGrace), after, pageSize)
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			after = id
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("finish deletions: %w", err)
			}
			if err := s.delete(ctx, id); err != nil {
				failed(err)
				continue
			}
			done.Deleted++
		}
	}
}

// delete deletes a file that is buried: its entry first, so that nobody is shown a file without bytes.
func (s *sweeper) delete(ctx context.Context, id string) error {
	if err := s.catalogue.Delete(ctx, id); err != nil {
		return err
	}
	return s.files.Delete(ctx, id)
}

// finishUploads goes on where an upload was interrupted.
func (s *sweeper) finishUploads(ctx context.Context, now time.Time, done *counts, failed func(error)) error {
	brokerAway := false
	for after := ""; ; {
		page, err := s.files.Unfinished(ctx, now.Add(-s.pendingGrace), after, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, u := range page {
			after = u.ID
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("finish uploads: %w", err)
			}
			f, err := s.files.Get(ctx, u.ID)
			switch {
			case errors.Is(err, problem.NotFound) && u.Resumable:
				err = s.finish(ctx, now, u, done)
			case errors.Is(err, problem.NotFound):
				err = s.discard(ctx, now, u, done)
			case err == nil && now.Sub(f.StoredAt) < s.pendingGrace:
				// A long upload that has just ended: its function publishes now, or takes the file back.
			case err == nil && !brokerAway:
				err = s.announce(ctx, f, done)
				// The others would fail as well, and each take its time.
				brokerAway = errors.Is(err, errNotPublished)
			}
			failed(err)
		}
	}
}

// finish makes an upload in many requests a file, if all its bytes are there: who was about to do so was killed, and its
// client, for whom nothing is left to do, has not come back to ask. The event is for the next sweep, or for upload, if that
// is doing the same right now. One that lacks bytes is discarded, but not as long as its client may go on with it, nor while
// a request may be running that began before it expired.
func (s *sweeper) finish(ctx context.Context, now time.Time, u content.Unfinished, done *counts) error {
	_, _, err := s.files.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) { return fileStored(ctx, f) })
	switch {
	case err == nil:
		done.Finished++
		return nil
	case !errors.Is(err, problem.Conflict) && !errors.Is(err, problem.NotFound):
		return err
	case now.Sub(u.ExpiresAt) < s.orphanGrace:
		return nil
	}
	if err := s.files.Discard(ctx, u.ID); err != nil {
		return err
	}
	done.Discarded++
	return nil
}

// fileStored returns the event of a file, as its document carries it.
func fileStored(ctx context.Context, f *content.File) ([]byte, error) {
	e, err := events.NewFileStored(events.FileStored{ID: f.ID, Owner: f.Owner, Name: f.Name, Size: f.Size, SHA256: f.SHA256,
		ContentType: f.ContentType, StoredAt: f.StoredAt})
	if err != nil {
		return nil, fmt.Errorf("make the event of file %s: %w", f.ID, err)
	}
	events.Trace(ctx, &e)
	return e.MarshalJSON()
}

// discard deletes the bytes of an upload that has become no file, if its time is over.
func (s *sweeper) discard(ctx context.Context, now time.Time, u content.Unfinished, done *counts) error {
	id, err := uuid.Parse(u.ID)
	if err != nil {
		return fmt.Errorf("the upload %q has no id of ours: %w", u.ID, err)
	}
	began := time.Unix(id.Time().UnixTime())
	if now.Sub(began) < s.orphanGrace {
		return nil
	}
	if err := s.files.Discard(ctx, u.ID); err != nil {
		return err
	}
	done.Discarded++
	return nil
}

// errNotPublished is wrapped by an error of the publisher.
var errNotPublished = errors.New("an event could not be published")

// announce publishes the event of a file, with the same id as ever, unless the file is a duplicate: that one is deleted.
// Whether its event was published is not known, so the way is that of a file that everybody knows of.
func (s *sweeper) announce(ctx context.Context, f content.File, done *counts) error {
	if f.Key != "" {
		first, err := s.files.Claim(ctx, f.Key, f)
		if err != nil {
			return err
		}
		if first.ID != f.ID {
			if err := s.files.Bury(ctx, f.ID); err != nil {
				return err
			}
			if err := s.delete(ctx, f.ID); err != nil {
				return err
			}
			done.Duplicates++
			return nil
		}
	}
	body, err := s.files.Event(ctx, f.ID)
	if err != nil {
		return err
	}
	var e event.Event
	if err := e.UnmarshalJSON(body); err != nil {
		return fmt.Errorf("read the event of file %s: %w", f.ID, err)
	}
	if err := s.publisher.Publish(ctx, e); err != nil {
		return fmt.Errorf("%w: %w", errNotPublished, err)
	}
	if err := s.files.Confirm(ctx, f.ID); err != nil {
		return err
	}
	done.Published++
	return nil
}
