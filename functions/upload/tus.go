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
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	tusPath    = "/upload/tus"
	tusVersion = "1.0.0"
	// tusExtensions lists the supported extensions of the tus protocol. The tusd package implements the first three,
	// and this package implements checksum and expiration.
	tusExtensions = "creation,creation-with-upload,termination,checksum,expiration"
	// tusLifetime is the time from the creation of a resumable upload to its expiration. It is long enough for a
	// client that is suspended overnight, but limits how long an abandoned upload uses storage space and its owner's
	// quota.
	tusLifetime = 24 * time.Hour
	// tusSilence is how long the function waits for the next bytes of a request body. The limit is needed because the
	// function can serve only a limited number of requests concurrently, so idle clients could block others.
	tusSilence = 30 * time.Second
	// tusPiece is the content type that the tus protocol requires for a request body that contains file bytes.
	tusPiece = "application/offset+octet-stream"
	// lockedRetry is the Retry-After value of the 423 (Locked) response that a HEAD request receives if the store
	// or the broker is unavailable.
	lockedRetry = 2 * time.Second
)

// tus serves resumable uploads with version 1.0.0 of the tus protocol (https://tus.io/protocols/resumable-upload).
// It adds access control, checksums, expiration and problem documents to the tusd package.
type tus struct {
	*handler
	protocol *tusd.UnroutedHandler
	// owned is a handler that requires an access token with the files:write scope and then calls the serve method.
	owned http.Handler
}

// newTus returns the handler for resumable uploads. The handler serves tusPath and the paths below it.
func newTus(verifier *token.Verifier, h *handler) (http.Handler, error) {
	t := &tus{handler: h}
	composer := tusd.NewStoreComposer()
	composer.UseCore(tusStore{t})
	composer.UseTerminater(tusStore{t})
	// tusd needs no Locker, because the store accepts only one writer at each offset, even across replicas.
	var err error
	t.protocol, err = tusd.NewUnroutedHandler(tusd.Config{
		StoreComposer:        composer,
		BasePath:             tusPath + "/",
		MaxSize:              h.limits.file,
		DisableDownload:      true,
		DisableConcatenation: true,
		Cors:                 &tusd.CorsConfig{Disable: true}, // the gateway handles CORS
		// This timeout is shorter than the gateway's timeouts, so that the client gets this function's response and
		// not an error from the gateway.
		NetworkTimeout:          tusSilence,
		PreUploadCreateCallback: t.admit,
		// Discard all log entries from tusd, because the problem package logs the errors.
		Logger: xslog.New(xslog.NewTextHandler(io.Discard, &xslog.HandlerOptions{Level: xslog.LevelError + 1})),
	})
	if err != nil {
		return nil, err
	}
	t.owned = verifier.Require(problem.HandlerFunc(t.serve), token.ScopeFilesWrite)
	return http.StripPrefix(tusPath, t), nil
}

// ServeHTTP implements http.Handler. An OPTIONS request requires no access token, because the response contains only
// the server's capabilities, which are public.
func (t *tus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Tus-Resumable", tusVersion)
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodOptions {
		problem.HandlerFunc(t.serve).ServeHTTP(w, r)
		return
	}
	t.owned.ServeHTTP(w, r)
}

// exchange holds the state of one request. The request's context contains this state, because tusd passes the context
// to the methods of tusStore.
type exchange struct {
	owner string
	// method is the request method after X-HTTP-Method-Override has been applied.
	method   string
	body     *pieceBody
	metadata uploadMetadata
	checksum *checksummed
	// upload is the resumable upload that the request creates or refers to.
	upload content.Upload
	// created reports whether the request has created the upload.
	created bool
	// err is the first error that occurred during the request. The response reports this error.
	err error
}

type exchangeKey struct{}

// exchangeOf returns the request state that serve has stored in ctx, or nil if ctx contains none.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// fail returns err. If err is not nil and the request has no earlier error, fail also records err in x.
func (x *exchange) fail(err error) error {
	if x.err == nil {
		x.err = err
	}
	return err
}

// serve passes the request to tusd and sends tusd's response. If the request fails, serve sends no response but
// returns an error, which the caller sends as a problem document.
func (t *tus) serve(w http.ResponseWriter, r *http.Request) error {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return problem.UnsupportedType.With("Content-Encoding is not supported: send the file without this header").Header("Accept-Encoding", "identity")
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
			t.discard(asked.Context(), x.upload.ID)
		}
		if x.method == http.MethodHead && problem.Status(err) == http.StatusServiceUnavailable {
			// Respond with a 423 (Locked), because tus-js-client repeats a HEAD request only after this status.
			// After any other error status, including 503, it would start over and send the whole file again.
			return problem.Locked.Because(err, "the upload's offset is temporarily unavailable: send the HEAD request again").RetryAfter(lockedRetry)
		}
		return err
	}
	a.send(x)
	return nil
}

// route calls the handler for the path and the method of r. tusd calls route after it has checked the protocol version
// and applied X-HTTP-Method-Override.
func (t *tus) route(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	x.method = r.Method
	id := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case strings.Contains(id, "/"):
		_ = x.fail(problem.NotFound.With("no such endpoint"))
	case id == "" && r.Method == http.MethodPost:
		if x.fail(x.declare(r)) == nil {
			t.protocol.PostFile(w, r)
		}
	case id == "":
		_ = x.fail(problem.MethodNotAllowed.With("use POST").Header("Allow", "POST, OPTIONS"))
	case r.Method == http.MethodHead:
		// If an earlier request failed after it stored the last byte, settle completes the upload.
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

// declare parses the Upload-Metadata and Upload-Checksum headers of a request that creates an upload. tusd parses
// the other headers of the protocol.
func (x *exchange) declare(r *http.Request) (err error) {
	if r.Header.Get("Upload-Concat") != "" {
		return problem.BadRequest.With("concatenation is not supported: send the file as one upload, without the Upload-Concat header")
	}
	if x.metadata, err = parseMetadata(r.Header); err != nil {
		return err
	}
	x.checksum, err = uploadChecksum(r.Header)
	return err
}

// append prepares a PATCH request, which appends bytes to the upload with the given ID. It returns an error if tusd
// must not handle the request.
func (t *tus) append(r *http.Request, x *exchange, id string) (err error) {
	if x.checksum, err = uploadChecksum(r.Header); err != nil {
		return err
	}
	if err := t.open(r.Context(), x, id); err != nil {
		return err
	}
	if x.upload.Complete() && r.ContentLength > 0 && r.Header.Get("Upload-Offset") == strconv.FormatInt(x.upload.Length, 10) {
		return errTooLong // tusd would discard these bytes and report success
	}
	// If an earlier request failed after it stored the last byte, settle completes the upload.
	return t.settle(r.Context(), x.upload, true)
}

// open finds the upload with the given ID and records it in x. For another user's upload, the error is a
// problem.NotFound, which does not reveal that the upload exists.
func (t *tus) open(ctx context.Context, x *exchange, id string) error {
	u, err := t.files.Find(ctx, id)
	if err != nil {
		return err
	}
	if u.Owner != x.owner {
		return problem.NotFound.With("there is no such upload")
	}
	x.upload = u
	return nil
}

// admit checks the size limit, the quota, and whether the broker is ready. tusd calls admit before it creates an
// upload.
func (t *tus) admit(hook tusd.HookEvent) (tusd.HTTPResponse, tusd.FileInfoChanges, error) {
	x := exchangeOf(hook.Context)
	// Check the limits and the broker before tusd creates the upload, so that a client does not send a large file
	// that the function cannot accept.
	_, err := t.room(hook.Context, x.owner, hook.Upload.Size)
	if err == nil {
		err = t.publisher.Ready(hook.Context)
	}
	return tusd.HTTPResponse{}, tusd.FileInfoChanges{}, x.fail(err)
}

// settle turns a complete upload into a file and publishes the event that announces the file. It must be called
// before a response reports that all bytes have arrived, because the client then assumes that the file is stored.
func (t *tus) settle(ctx context.Context, u content.Upload, keepFile bool) error {
	if !u.Complete() || u.Stored && !u.Unconfirmed {
		return nil
	}
	f, err := t.files.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) })
	if err != nil {
		return err
	}
	// Publish the event that is stored in the file's document. It can differ from the event that this request
	// encoded, because another request might have turned the upload into a file first.
	if err := t.announceAgain(ctx, f.ID, keepFile); err != nil {
		return err
	}
	t.measureTus(ctx, u, "stored", f.Size)
	return nil
}

// measureTus records the metrics of a resumable upload that has ended. It calculates the upload's duration from the
// upload ID, which is a UUIDv7 and therefore contains the creation time.
func (t *tus) measureTus(ctx context.Context, u content.Upload, result string, size int64) {
	if id, err := uuid.Parse(u.ID); err == nil {
		telemetry.Upload(ctx, "tus", result, size, t.now().Sub(time.Unix(id.Time().UnixTime())))
	}
}

// discard deletes an upload after the request that created the upload failed. The client cannot continue this
// upload, because the client has not received the upload's URL.
func (t *tus) discard(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	// A conflict means that the conversion of the upload into a file has already begun, so the upload must be kept.
	if err := t.files.Discard(ctx, id); err != nil && !errors.Is(err, problem.Conflict) {
		slog.WarnContext(ctx, "could not discard upload after the request that created it failed", "id", id, "error", err)
	}
}
