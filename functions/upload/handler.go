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
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	// publishAttempts is the maximum number of attempts to publish an event.
	publishAttempts = 3
	// publishTimeout is the total time limit for all attempts to publish an event.
	publishTimeout = 20 * time.Second
	// retryPause is the interval between two attempts to publish an event.
	retryPause = 200 * time.Millisecond
	// undoTimeout is the time limit for the deletion of a file or a resumable upload after the upload has failed.
	undoTimeout = 20 * time.Second
)

// store contains the methods of content.Store that the upload function needs.
type store interface {
	uploads
	Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Confirm(ctx context.Context, id string) error
	Confirmed(ctx context.Context, id string) (bool, error)
	Event(ctx context.Context, id string) ([]byte, error)
	Delete(ctx context.Context, id string) error
	Usage(ctx context.Context, owner string) (int64, error)
	Claimed(ctx context.Context, key string) (f content.File, found bool, err error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
}

// publisher contains the methods of events.Publisher that the upload function needs.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
	Ready(ctx context.Context) error
}

// handler serves single-request uploads (POST /upload and POST /). The tus type serves resumable uploads.
type handler struct {
	files     store
	publisher publisher
	limits    limits
	now       func() time.Time
}

// newHandler returns the upload function's HTTP handler. It serves single-request uploads at / and /upload, and
// resumable uploads at tusPath and the paths below it.
func newHandler(verifier *token.Verifier, files store, publisher publisher, limits limits) (http.Handler, error) {
	h := &handler{files, publisher, limits, time.Now}
	upload := verifier.Require(problem.HandlerFunc(h.measured), token.ScopeFilesWrite)
	resumable, err := newTus(verifier, h)
	if err != nil {
		return nil, err
	}
	return function.EndSmallBodies(routing.Table{
		"/":              {http.MethodPost: upload},
		"/upload":        {http.MethodPost: upload},
		tusPath:          {routing.Any: resumable},
		tusPath + "/...": {routing.Any: resumable},
	}.Handler()), nil
}

// measured handles a single-request upload and records its metrics.
func (h *handler) measured(w http.ResponseWriter, r *http.Request) error {
	began := h.now()
	f, replayed, err := h.upload(r)
	result, size := "stored", f.Size
	switch {
	case replayed:
		result, size = "replayed", 0
	case err == nil:
	case problem.Status(err) < http.StatusInternalServerError:
		result = "refused"
	default:
		result = "failed"
	}
	telemetry.Upload(r.Context(), "http", result, size, h.now().Sub(began))
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/files/"+f.ID)
	return respond.JSON(w, http.StatusAccepted, stored{ID: f.ID, Name: f.Name, Size: f.Size, SHA256: f.SHA256,
		ContentType: f.ContentType, Status: "stored"})
}

// stored is the JSON body of the response to a successful upload.
type stored struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type"`
	Status      string `json:"status"`
}

// upload stores the file in the request r and publishes the event that announces the file. If an earlier request had
// the same idempotency key, upload returns that request's file and sets replayed to true.
func (h *handler) upload(r *http.Request) (f content.File, replayed bool, err error) {
	ctx := r.Context()
	// First perform all checks that do not need the body, so that a client does not send a large file that the
	// function rejects.
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
	info := file.Info{Owner: owner, Name: in.name, ContentType: in.contentType, Size: headers.size}
	f, e, err := h.keep(ctx, content.File{Info: info, Key: key}, in)
	if err != nil {
		return content.File{}, false, err
	}
	// Check the quota before the event is published, because the function must not delete a file whose event has
	// been published.
	if err := h.withinQuota(ctx, owner, f.ID); err != nil {
		return content.File{}, false, err
	}
	if key != "" {
		first, err := h.claim(ctx, key, f)
		if err != nil {
			return content.File{}, false, err
		}
		if first.ID != f.ID {
			return h.replay(ctx, first)
		}
	}
	// If publishing fails, keep a file that has an idempotency key, because the response to a concurrent request
	// with the same key might already have reported that the file is stored.
	if err := h.announce(ctx, e, key != ""); err != nil {
		return content.File{}, false, err
	}
	// The broker has confirmed the event, so the catalog entry can be late but cannot be lost.
	return f, false, nil
}

// keep writes the uploaded bytes to the store. It returns the stored file and the event that announces the file.
func (h *handler) keep(ctx context.Context, f content.File, in incoming) (_ content.File, e event.Event, err error) {
	f, err = h.files.Put(ctx, f, in.bytes, func(f *content.File) (encoded []byte, err error) {
		if err := in.finish(f.SHA256); err != nil {
			return nil, err
		}
		if e, err = events.NewFileStored(ctx, f.Info); err != nil {
			return nil, err
		}
		return e.MarshalJSON() // the store saves the event in the file's document
	})
	return f, e, err
}

// announce publishes the event that announces a committed file. If publishing fails, announce deletes the file,
// unless keepFile is true or the broker might have received the event.
func (h *handler) announce(ctx context.Context, e event.Event, keepFile bool) error {
	// Continue even if the client disconnects, because every stored file should have a catalog entry.
	ctx = context.WithoutCancel(ctx)
	sent, err := h.publish(ctx, e)
	if err == nil {
		if err := h.files.Confirm(ctx, e.ID()); err != nil {
			// Do not return an error, because the upload has succeeded. The sweep function will publish the event
			// again, which does no harm, because the event ID stays the same.
			slog.WarnContext(ctx, "published the event, but could not mark it as published", "id", e.ID(), "error", err)
		}
		return nil
	}
	// Keep the file if the broker might have received the event, because a late catalog entry could otherwise refer
	// to a deleted file. The sweep function publishes the event again. If the client uploads the file again without
	// an idempotency key, the store contains two copies, but no data is lost.
	if sent || keepFile {
		return fmt.Errorf("publish the event for file %s (the sweep function will retry): %w", e.ID(), err)
	}
	// Delete the file, so that the store does not contain two copies after the client uploads the file again.
	return h.undo(ctx, e.ID(), err)
}

// undo deletes the file or the resumable upload with the given ID. It returns err, joined with the deletion error if
// the deletion fails.
func (h *handler) undo(ctx context.Context, id string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if failed := h.files.Delete(ctx, id); failed != nil {
		return errors.Join(err, fmt.Errorf("undo the upload of file %s: %w", id, failed))
	}
	return err
}

// publish makes up to publishAttempts attempts to publish e and returns the error of the last attempt. sent reports
// whether the broker might have received e, even if publish returns an error.
func (h *handler) publish(ctx context.Context, e event.Event) (sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	// Repeated attempts do no harm, because the record function recognizes duplicates by the event ID.
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
