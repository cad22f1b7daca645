package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
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
	Delete(ctx context.Context, id string) error
}

// publisher hands on events; see events.Publisher.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
	Ready(ctx context.Context) error
}

// handler answers POST /upload and POST /.
type handler struct {
	files     store
	publisher publisher
	maxSize   int64
}

func newHandler(verifier *token.Verifier, files store, publisher publisher, maxSize int64) http.Handler {
	h := &handler{files, publisher, maxSize}
	upload := verifier.Require(problem.HandlerFunc(h.upload), token.ScopeFilesWrite)
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Path != "/upload" && r.URL.Path != "/" {
			return problem.NotFound.With("there is nothing at this path")
		}
		if r.Method != http.MethodPost {
			return problem.MethodNotAllowed.With("use POST").Header("Allow", http.MethodPost)
		}
		upload.ServeHTTP(w, r)
		return nil
	})
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

// upload takes in one file. It answers 202 once the bytes are committed and the event is confirmed: what is left to
// do, the catalogue entry, can then only be late.
func (h *handler) upload(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	headers, err := h.declare(r)
	if err != nil {
		return err
	}
	// Before the body: a client should not send a large file for nothing.
	if err := h.publisher.Ready(ctx); err != nil {
		return err
	}
	in, err := h.receive(w, r, headers)
	if err != nil {
		return err
	}
	var e event.Event
	owner := token.Caller(ctx).Subject
	file, err := h.files.Put(ctx, content.File{Owner: owner, Name: in.name, ContentType: in.contentType, Size: r.ContentLength}, in.bytes,
		func(f *content.File) ([]byte, error) {
			if err := in.finish(f.SHA256); err != nil {
				return nil, err
			}
			var err error
			e, err = events.NewFileStored(events.FileStored{ID: f.ID, Owner: f.Owner, Name: f.Name, Size: f.Size,
				SHA256: f.SHA256, ContentType: f.ContentType, StoredAt: f.StoredAt})
			if err != nil {
				return nil, fmt.Errorf("make the event of file %s: %w", f.ID, err)
			}
			return e.MarshalJSON()
		})
	if err != nil {
		return err
	}
	if err := h.announce(ctx, e); err != nil {
		return err
	}
	w.Header().Set("Location", "/files/"+file.ID)
	return problem.JSON(w, http.StatusAccepted, stored{file.ID, file.Name, file.Size, file.SHA256, file.ContentType, "stored"})
}

// announce publishes the event of a file that is committed. It goes on when the client has gone away: the file is
// there, so its entry should be.
//
// If no attempt can have reached the broker, the file is taken back, and the client's retry starts afresh. If one may
// have (its confirmation did not come), the entry may appear at any time and must find its file: the file stays, its
// event pending in its document, and the 503 is the truth as far as it is known. A retry then may make a second file,
// which loses nothing. The same holds if taking it back fails.
func (h *handler) announce(ctx context.Context, e event.Event) error {
	ctx = context.WithoutCancel(ctx)
	sent, err := h.publish(ctx, e)
	if err == nil {
		if err := h.files.Confirm(ctx, e.ID()); err != nil {
			// The answer is true all the same; whoever publishes the event again does no harm.
			slog.WarnContext(ctx, "the event was published, but that could not be noted", "id", e.ID(), "error", err)
		}
		return nil
	}
	if sent {
		return fmt.Errorf("the file %s stays, unconfirmed: %w", e.ID(), err)
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
