package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	tusd "github.com/tus/tusd/v2/pkg/handler"
	xslog "golang.org/x/exp/slog"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	tusPath    = "/upload/tus"
	tusVersion = "1.0.0"
	// tusExtensions are those that are spoken; tusd knows of the first three.
	tusExtensions = "creation,creation-with-upload,termination,checksum,expiration"
	// tusLifetime is how long an upload may take from its creation on: a computer that slept over night can go on, and
	// what nobody comes back for does not fill the store, nor its owner's quota, for more than a day.
	tusLifetime = 24 * time.Hour
	// tusSilence is how long a request's body may stand still. Then its place is free for others: what came is kept, and
	// the client, if there still is one, goes on from there. It is less than the gateway's patience.
	tusSilence = 30 * time.Second
	// tusPiece is the content type of a piece of a file.
	tusPiece = "application/offset+octet-stream"
	// lockedRetry is what a client is told to wait that asked for the offset while a store was away.
	lockedRetry = 2 * time.Second
)

// tus answers resumable uploads, by version 1.0 of https://tus.io/protocols/resumable-upload. The protocol is tusd's; ours
// are who may do what, checksums, expiration, problem documents, and what becomes of a complete upload: a file like any
// other, with one event, before the last byte is acknowledged.
type tus struct {
	*handler
	uploads  uploads
	protocol *tusd.UnroutedHandler
	// owned is serve for whoever may upload.
	owned http.Handler
}

// newTus returns the endpoint for requests whose path begins with tusPath.
func newTus(verifier *token.Verifier, h *handler, files uploads) (http.Handler, error) {
	t := &tus{handler: h, uploads: files}
	composer := tusd.NewStoreComposer()
	composer.UseCore(tusStore{t})
	composer.UseTerminater(tusStore{t})
	// No Locker: the store lets one writer get on at each offset, whatever replica it is at.
	var err error
	t.protocol, err = tusd.NewUnroutedHandler(tusd.Config{
		StoreComposer:           composer,
		BasePath:                tusPath + "/",
		MaxSize:                 h.limits.file,
		DisableDownload:         true,
		DisableConcatenation:    true,
		Cors:                    &tusd.CorsConfig{Disable: true}, // the gateway's
		NetworkTimeout:          tusSilence,
		PreUploadCreateCallback: t.admit,
		Logger:                  xslog.New(xslog.NewTextHandler(io.Discard, &xslog.HandlerOptions{Level: xslog.LevelError + 1})), // ours is elsewhere
	})
	if err != nil {
		return nil, err
	}
	t.owned = verifier.Require(problem.HandlerFunc(t.serve), token.ScopeFilesWrite)
	return http.StripPrefix(tusPath, t), nil
}

// ServeHTTP answers one request. What the server can do is no secret.
func (t *tus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Tus-Resumable", tusVersion)
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodOptions {
		problem.HandlerFunc(t.serve).ServeHTTP(w, r)
		return
	}
	t.owned.ServeHTTP(w, r)
}

// exchange is one request, with what is known of it. Its context carries it through tusd to the store.
type exchange struct {
	owner string
	// method is the one that is meant, where X-HTTP-Method-Override names another.
	method   string
	body     *pieceBody
	metadata uploadMetadata
	checksum *checksummed
	// upload is the one that the request is for, or has created.
	upload  content.Upload
	created bool
	// err is the first error, which is what the request is answered with.
	err error
}

type exchangeKey struct{}

// exchangeOf returns the exchange that ctx belongs to.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// fail notes that the request failed, and returns err.
func (x *exchange) fail(err error) error {
	if x.err == nil {
		x.err = err
	}
	return err
}

// serve has tusd answer the request, and then answers it: with a problem instead of an error.
func (t *tus) serve(w http.ResponseWriter, r *http.Request) error {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return problem.UnsupportedType.With("send the file without Content-Encoding").Header("Accept-Encoding", "identity")
	}
	x := &exchange{body: &pieceBody{from: r.Body, ended: r.ContentLength == 0}}
	if caller := token.Caller(r.Context()); caller != nil {
		x.owner = caller.Subject
	}
	asked := r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	asked.Body = x.body
	a := &answer{to: w, request: r.Context(), body: x.body, header: http.Header{}}
	t.protocol.Middleware(http.HandlerFunc(t.route)).ServeHTTP(a, asked)
	err := t.verdict(a, x)
	if err != nil {
		if x.created {
			t.undo(asked.Context(), x.upload.ID)
		}
		if x.method == http.MethodHead && problem.Status(err) == http.StatusServiceUnavailable {
			// To any other status, 503 too, tus-js-client answers by sending the whole file again.
			return problem.Locked.Because(err, "how much is there can not be told right now: ask again").RetryAfter(lockedRetry)
		}
		return err
	}
	a.send(x)
	return nil
}

// route calls the handler of the method, after tusd has seen to the version and to X-HTTP-Method-Override.
func (t *tus) route(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	x.method = r.Method
	id := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case strings.Contains(id, "/"):
		_ = x.fail(problem.NotFound.With("there is nothing at this path"))
	case id == "" && r.Method == http.MethodPost:
		if x.fail(x.declare(r)) == nil {
			t.protocol.PostFile(w, r)
		}
	case id == "":
		_ = x.fail(problem.MethodNotAllowed.With("use POST").Header("Allow", "POST, OPTIONS"))
	case r.Method == http.MethodHead:
		if x.fail(t.open(r.Context(), x, id)) == nil && x.fail(t.settle(r.Context(), x.upload, true)) == nil {
			t.protocol.HeadFile(w, r)
		}
	case r.Method == http.MethodPatch:
		if x.fail(t.append(r, x, id)) == nil {
			t.protocol.PatchFile(w, r)
		}
	case r.Method == http.MethodDelete:
		if x.fail(t.open(r.Context(), x, id)) == nil {
			t.protocol.DelFile(w, r)
		}
	default:
		_ = x.fail(problem.MethodNotAllowed.With("use HEAD, PATCH or DELETE").Header("Allow", "HEAD, PATCH, DELETE, OPTIONS"))
	}
}

// declare reads the headers of a request that creates an upload, as far as tusd does not know of them.
func (x *exchange) declare(r *http.Request) (err error) {
	if r.Header.Get("Upload-Concat") != "" {
		return problem.BadRequest.With("uploads are not put together from others: send the file as one, without Upload-Concat")
	}
	if x.metadata, err = parseMetadata(r.Header); err != nil {
		return err
	}
	x.checksum, err = uploadChecksum(r.Header)
	return err
}

// append prepares a request with a piece of the upload with the given id.
func (t *tus) append(r *http.Request, x *exchange, id string) (err error) {
	if x.checksum, err = uploadChecksum(r.Header); err != nil {
		return err
	}
	if err := t.open(r.Context(), x, id); err != nil {
		return err
	}
	if x.upload.Complete() && r.ContentLength > 0 && r.Header.Get("Upload-Offset") == strconv.FormatInt(x.upload.Length, 10) {
		return errTooLong // tusd would drop the bytes without a word
	}
	return t.settle(r.Context(), x.upload, true)
}

// open finds the upload with the given id, if it is the caller's: of others nobody is told that they exist.
func (t *tus) open(ctx context.Context, x *exchange, id string) error {
	u, err := t.uploads.Find(ctx, id)
	if err != nil {
		return err
	}
	if u.Owner != x.owner {
		return problem.NotFound.With("there is no such upload")
	}
	x.upload = u
	return nil
}

// admit refuses what can be refused before an upload is created: so that nobody sends a large file for nothing.
func (t *tus) admit(hook tusd.HookEvent) (tusd.HTTPResponse, tusd.FileInfoChanges, error) {
	x := exchangeOf(hook.Context)
	_, err := t.room(hook.Context, x.owner, hook.Upload.Size)
	if err == nil {
		err = t.publisher.Ready(hook.Context)
	}
	return tusd.HTTPResponse{}, tusd.FileInfoChanges{}, x.fail(err)
}

// settle makes an upload a file, if all its bytes are there, and tells of it. A client that knows all its bytes to be
// there takes its file for kept: so whoever answers that has to settle first, whatever became of the request with the
// last byte. If the event can not be published, the file stays unless stays is false: see announce.
func (t *tus) settle(ctx context.Context, u content.Upload, stays bool) error {
	if !u.Complete() || u.Stored && !u.Unconfirmed {
		return nil
	}
	file, raw, err := t.uploads.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) {
		e, err := fileStored(ctx, *f)
		if err != nil {
			return nil, err
		}
		return e.MarshalJSON()
	})
	if err != nil {
		return err
	}
	if err := t.announceRaw(ctx, file.ID, raw, stays); err != nil {
		return err
	}
	measureTus(ctx, u, "stored", file.Size)
	return nil
}

// measureTus notes the end of an upload, which began when its id was made.
func measureTus(ctx context.Context, u content.Upload, result string, size int64) {
	if id, err := uuid.Parse(u.ID); err == nil {
		telemetry.Upload(ctx, "tus", result, size, time.Since(time.Unix(id.Time().UnixTime())))
	}
}

// undo takes back an upload whose creation is answered with an error, since its client can not know where it is. One
// that has become a file, or is about to, stays.
func (t *tus) undo(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := t.uploads.Discard(ctx, id); err != nil && !errors.Is(err, problem.Conflict) {
		slog.WarnContext(ctx, "an upload that was not created is left to sweep", "id", id, "error", err)
	}
}
