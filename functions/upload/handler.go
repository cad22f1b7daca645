package main

import (
	"context"
	"errors"
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
	// publishTimeout is the time limit for publishing an event. It is short, because the sweep function publishes the
	// event later if publishing fails.
	publishTimeout = 3 * time.Second
	// undoTimeout is the time limit for the deletion of a resumable upload whose creation has failed.
	undoTimeout = 20 * time.Second
)

// store contains the methods of content.Store that the upload function needs.
type store interface {
	uploads
	Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Room(ctx context.Context, owner string, least int64) (bytes int64, full, err error)
	Claimed(ctx context.Context, key string) (f content.File, found bool, err error)
	Claim(ctx context.Context, key string, f content.File) (content.File, error)
}

// publisher contains the method of events.Publisher that the upload function needs.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
}

// handler serves single-request uploads (POST /upload and POST /). The tus type serves resumable uploads.
type handler struct {
	files     store
	publisher publisher
	maxSize   int64 // the maximum size of a file in bytes
	now       func() time.Time
}

// newHandler returns the upload function's HTTP handler. It serves single-request uploads at / and /upload, and
// resumable uploads at tusPath and the paths below it.
func newHandler(verifier *token.Verifier, files store, publisher publisher, maxSize int64) http.Handler {
	h := &handler{files, publisher, maxSize, time.Now}
	upload := verifier.Require(problem.HandlerFunc(h.measured), token.ScopeFilesWrite)
	resumable := newTus(verifier, h)
	return function.EndSmallBodies(routing.Table{
		"/":              {http.MethodPost: upload},
		"/upload":        {http.MethodPost: upload},
		tusPath:          {routing.Any: resumable},
		tusPath + "/...": {routing.Any: resumable},
	}.Handler())
}

// measured handles a single-request upload and records its metrics.
func (h *handler) measured(w http.ResponseWriter, r *http.Request) error {
	began := h.now()
	f, replayed, err := h.upload(r)
	result, size := telemetry.HTTPStored, f.Size
	switch {
	case replayed:
		result, size = telemetry.HTTPReplayed, 0
	case err == nil:
	case problem.Status(err) < http.StatusInternalServerError:
		result = telemetry.HTTPRefused
	default:
		result = telemetry.HTTPFailed
	}
	telemetry.Upload(r.Context(), result, size, h.now().Sub(began))
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
			err = repeats(r, headers, first)
			return first, err == nil, err
		}
	}
	room, err := h.room(ctx, owner, headers.least)
	if err != nil {
		return content.File{}, false, err
	}
	in, err := receive(r, headers, room)
	if err != nil {
		return content.File{}, false, err
	}
	info := file.Info{Owner: owner, Name: in.name, ContentType: in.contentType, Size: headers.size}
	var e event.Event
	f, err = h.files.Put(ctx, content.File{Info: info, Key: key}, in.bytes, func(f *content.File) ([]byte, error) {
		// Perform all checks that can refuse the file here, because Put commits the file immediately afterward.
		if err := in.finish(); err != nil {
			return nil, err
		}
		if e, err = events.NewFileStored(ctx, f.Info); err != nil {
			return nil, err
		}
		if err := h.claim(ctx, key, *f); err != nil {
			return nil, err
		}
		return e.MarshalJSON() // the store saves the event in the file's document
	})
	var taken *takenError
	switch {
	case errors.As(err, &taken):
		return taken.replay()
	case err != nil:
		return content.File{}, false, err
	}
	h.announce(ctx, e)
	return f, false, nil
}

// announce publishes the event of a committed file. If publishing fails, announce only logs the error, because the
// sweep function publishes the event later.
func (h *handler) announce(ctx context.Context, e event.Event) {
	// Continue even if the client disconnects, because the file is already stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	if err := h.publisher.Publish(ctx, e); err != nil {
		slog.WarnContext(ctx, "could not publish the event, so sweep publishes it later", "id", e.ID(), "error", err)
	}
}
