package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// publishAttempts and publishTimeout bound the publishing of one event, retryPause is the wait between attempts.
	publishAttempts = 3
	publishTimeout  = 20 * time.Second
	retryPause      = 200 * time.Millisecond
	// undoTimeout bounds the deletion of a file whose event was not published.
	undoTimeout = 20 * time.Second
)

// store keeps files; see content.Store.
type store interface {
	Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Confirm(ctx context.Context, id string) error
	Confirmed(ctx context.Context, id string) (bool, error)
	Event(ctx context.Context, id string) ([]byte, error)
	Delete(ctx context.Context, id string) error
	Usage(ctx context.Context, owner string) (int64, error)
	Claimed(ctx context.Context, key string) (f content.File, found bool, err error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
}

// publisher hands on events; see events.Publisher.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
	Ready(ctx context.Context) error
}

// handler answers POST /upload and POST /. Uploads in many requests are answered by tus.
type handler struct {
	files     store
	publisher publisher
	limits    limits
}

// newHandler returns the whole endpoint.
func newHandler(verifier *token.Verifier, files allStore, publisher publisher, limits limits) (http.Handler, error) {
	h := &handler{files, publisher, limits}
	upload := verifier.Require(problem.HandlerFunc(h.measured), token.ScopeFilesWrite)
	resumable, err := newTus(verifier, h, files)
	if err != nil {
		return nil, err
	}
	return function.EndSmallBodies(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if rest, ok := strings.CutPrefix(r.URL.Path, tusPath); ok && (rest == "" || rest[0] == '/') {
			resumable.ServeHTTP(w, r)
			return nil
		}
		if r.URL.Path != "/upload" && r.URL.Path != "/" {
			return problem.NotFound.With("there is nothing at this path")
		}
		if r.Method != http.MethodPost {
			return problem.MethodNotAllowed.With("use POST").Header("Allow", http.MethodPost)
		}
		upload.ServeHTTP(w, r)
		return nil
	})), nil
}

// measured is upload with its answer and its metrics.
func (h *handler) measured(w http.ResponseWriter, r *http.Request) error {
	began := time.Now()
	file, before, err := h.upload(r)
	result, size := "stored", file.Size
	switch {
	case before:
		result, size = "replayed", 0
	case err == nil:
	case problem.Status(err) < http.StatusInternalServerError:
		result = "refused"
	default:
		result = "failed"
	}
	telemetry.Upload(r.Context(), "http", result, size, time.Since(began))
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/files/"+file.ID)
	return problem.JSON(w, http.StatusAccepted, stored{file.ID, file.Name, file.Size, file.SHA256, file.ContentType, "stored"})
}

// stored is the answer to a file that was taken in.
type stored struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type"`
	Status      string `json:"status"`
}

// upload takes in one file, or finds the one that an earlier request with the same key has made. It returns it once the
// bytes are committed and the event is confirmed: what is left to do, the catalogue entry, can then only be late. Whatever
// can be refused is refused before the body is read, so that nobody sends a large file for nothing.
func (h *handler) upload(r *http.Request) (file content.File, before bool, err error) {
	ctx := r.Context()
	headers, err := declare(r)
	if err != nil {
		return content.File{}, false, err
	}
	owner := token.Caller(ctx).Subject
	var key string
	if headers.key != "" {
		key = claimKey(owner, headers.key)
		first, found, err := h.files.Claimed(ctx, key)
		if err != nil {
			return content.File{}, false, err
		}
		if found {
			if err := headers.repeats(first, r.ContentLength); err != nil {
				return content.File{}, false, err
			}
			return h.replay(ctx, first)
		}
	}
	room, err := h.room(ctx, owner, headers.least)
	if err != nil {
		return content.File{}, false, err
	}
	if err := h.publisher.Ready(ctx); err != nil {
		return content.File{}, false, err
	}
	in, err := receive(r, headers, room)
	if err != nil {
		return content.File{}, false, err
	}
	file, e, err := h.keep(ctx, content.File{Owner: owner, Name: in.name, ContentType: in.contentType, Size: headers.size, Key: key}, in)
	if err != nil {
		return content.File{}, false, err
	}
	if err := h.withinQuota(ctx, owner, file.ID); err != nil {
		return content.File{}, false, err
	}
	if key != "" {
		first, err := h.claim(ctx, key, file)
		if err != nil {
			return content.File{}, false, err
		}
		if first.ID != file.ID {
			return h.replay(ctx, first)
		}
	}
	if err := h.announce(ctx, e, key != ""); err != nil {
		return content.File{}, false, err
	}
	return file, false, nil
}

// keep stores the file and returns it complete, with the event that its document carries.
func (h *handler) keep(ctx context.Context, file content.File, in incoming) (_ content.File, e event.Event, err error) {
	file, err = h.files.Put(ctx, file, in.bytes, func(f *content.File) ([]byte, error) {
		if err := in.finish(f.SHA256); err != nil {
			return nil, err
		}
		var err error
		if e, err = fileStored(ctx, *f); err != nil {
			return nil, err
		}
		return e.MarshalJSON()
	})
	return file, e, err
}

// fileStored returns the event that tells of a file.
func fileStored(ctx context.Context, f content.File) (event.Event, error) {
	e, err := events.NewFileStored(events.FileStored{ID: f.ID, Owner: f.Owner, Name: f.Name, Size: f.Size,
		SHA256: f.SHA256, ContentType: f.ContentType, StoredAt: f.StoredAt})
	if err != nil {
		return event.Event{}, fmt.Errorf("make the event of file %s: %w", f.ID, err)
	}
	events.Trace(ctx, &e)
	return e, nil
}

// announce publishes the event of a file that is committed. It goes on when the client has gone away: the file is
// there, so its entry should be.
//
// If no attempt can have reached the broker, the file is taken back, and the client's retry starts afresh. If one may
// have (its confirmation did not come), the entry may appear at any time and must find its file: the file stays, its
// event pending in its document until sweep publishes it again, and the 503 is the truth as far as it is known. A retry
// then may make a second file, which loses nothing. The same holds if taking it back fails.
//
// A file that has been claimed for an idempotency key, or that came in more than one request, is never taken back:
// another request may be answering with it right now, and nobody wants to send the latter again. It stays, and a retry
// publishes its event again.
func (h *handler) announce(ctx context.Context, e event.Event, stays bool) error {
	ctx = context.WithoutCancel(ctx)
	sent, err := h.publish(ctx, e)
	if err == nil {
		if err := h.files.Confirm(ctx, e.ID()); err != nil {
			// The answer is true all the same; sweep, which publishes the event again, does no harm.
			slog.WarnContext(ctx, "the event was published, but its file still counts as pending", "id", e.ID(), "error", err)
		}
		return nil
	}
	if sent || stays {
		return fmt.Errorf("the file %s stays, pending: %w", e.ID(), err)
	}
	undo, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if failed := h.files.Delete(undo, e.ID()); failed != nil {
		return errors.Join(err, fmt.Errorf("take back file %s: %w", e.ID(), failed))
	}
	return err
}

// publish tries a few times and returns the last error. sent tells whether any attempt may have been successful all
// the same; every attempt carries the same event id, so that this does no harm.
func (h *handler) publish(ctx context.Context, e event.Event) (sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err = h.publisher.Publish(ctx, e)
		if err == nil {
			return true, nil
		}
		sent = sent || errors.Is(err, events.ErrUnknown)
		if attempt == publishAttempts {
			return sent, err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return sent, err
		}
	}
}
