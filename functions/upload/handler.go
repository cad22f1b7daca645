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
	// publishAttempts is the maximum number of attempts to publish an event. retryPause is the interval between two
	// attempts. publishTimeout limits the total time for all attempts to publish an event.
	publishAttempts = 3
	publishTimeout  = 20 * time.Second
	retryPause      = 200 * time.Millisecond
	// undoTimeout is how long the deletion of a file or a resumable upload may take after the upload failed.
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

// handler handles single-request uploads (POST /upload and POST /). The type tus handles resumable uploads.
type handler struct {
	files     store
	publisher publisher
	limits    limits
	now       func() time.Time
}

// newHandler returns the HTTP handler of the upload function. It serves single-request uploads at /upload and /, and
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

// measured handles a single-request upload. It calls h.upload, records the metrics of the upload, and sends the
// response.
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

// upload stores the file in the request r. If an earlier request with the same idempotency key has already stored a
// file, upload returns that file and sets replayed to true.
//
// upload returns only after the file's bytes are committed and the broker has confirmed the file's event. From then on,
// the file's catalog entry can be late but cannot be lost, so the client can rely on the response.
//
// Before upload reads the body, it performs all checks that do not need the body, so that a client does not send a
// large file that the function rejects.
func (h *handler) upload(r *http.Request) (f content.File, replayed bool, err error) {
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
	info := file.Info{Owner: owner, Name: in.name, ContentType: in.contentType, Size: headers.size}
	f, e, err := h.keep(ctx, content.File{Info: info, Key: key}, in)
	if err != nil {
		return content.File{}, false, err
	}
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
	if err := h.announce(ctx, e, key != ""); err != nil {
		return content.File{}, false, err
	}
	return f, false, nil
}

// keep writes the uploaded bytes to the store. It returns the stored file, including its ID, size, SHA-256 digest and
// storage time. It also returns the file's event, which the store saves in the file's document.
func (h *handler) keep(ctx context.Context, f content.File, in incoming) (_ content.File, e event.Event, err error) {
	f, err = h.files.Put(ctx, f, in.bytes, func(f *content.File) (encoded []byte, err error) {
		if err := in.finish(f.SHA256); err != nil {
			return nil, err
		}
		if e, err = events.NewFileStored(ctx, f.Info); err != nil {
			return nil, err
		}
		return e.MarshalJSON()
	})
	return f, e, err
}

// announce publishes the event for a committed file. It continues even if the client disconnects, because every stored
// file should have a catalog entry.
//
// If publishing fails and the broker cannot have received the event, announce deletes the file, so that the client can
// upload the file again from the beginning.
//
// If publishing fails but the broker might have received the event, announce keeps the file, because a late catalog
// entry could otherwise refer to a file that no longer exists. The event stays pending in the file's document until
// the sweep function publishes it again. The client gets a 503, because the outcome is unknown. If the client uploads
// the file again, the store can contain two copies, but no data is lost. Two copies are also possible if announce
// cannot delete a file.
//
// If keepFile is true, announce never deletes the file. The function publishes the event again when the client retries.
// Callers set keepFile to true if the file has an idempotency key, because another request with this key might be
// returning the file at the same time. They also set keepFile to true if the file arrived in several requests, so that
// the client does not have to send the file again.
func (h *handler) announce(ctx context.Context, e event.Event, keepFile bool) error {
	ctx = context.WithoutCancel(ctx)
	sent, err := h.publish(ctx, e)
	if err == nil {
		if err := h.files.Confirm(ctx, e.ID()); err != nil {
			// Do not return an error, because the upload has succeeded. The sweep function will publish the event
			// again, which does no harm, because the event ID stays the same.
			slog.WarnContext(ctx, "published event, but could not mark the event as published", "id", e.ID(), "error", err)
		}
		return nil
	}
	if sent || keepFile {
		return fmt.Errorf("publish the event for file %s (the file stays pending): %w", e.ID(), err)
	}
	return h.undo(ctx, e.ID(), err)
}

// undo deletes the file or the resumable upload with the given ID. It returns err, the reason for the deletion. If the
// deletion fails, undo returns err joined with the deletion error.
func (h *handler) undo(ctx context.Context, id string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if failed := h.files.Delete(ctx, id); failed != nil {
		return errors.Join(err, fmt.Errorf("undo the upload of file %s: %w", id, failed))
	}
	return err
}

// publish makes up to publishAttempts attempts to publish e and returns the error of the last attempt. sent reports
// whether the broker might have received e. sent can be true even if publish returns an error. Repeated attempts do no
// harm, because every attempt sends the same event ID, so that the record function can recognize duplicates.
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
