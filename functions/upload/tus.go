package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
	"github.com/strongroom-dev/strongroom/shared/token"
)

const (
	tusPath    = "/upload/tus"
	tusVersion = "1.0.0"
	// tusExtensions lists the supported extensions of the tus protocol.
	tusExtensions = "creation,creation-with-upload,termination,checksum,expiration"
	// tusLifetime is the time from the creation of a resumable upload to its expiration. It is long enough for a
	// client that is suspended overnight, but limits how long an abandoned upload uses storage space and its owner's
	// quota.
	tusLifetime = 24 * time.Hour
	// tusGrace is how long a request may use the store after its deadline, to keep the bytes that have arrived.
	tusGrace = 10 * time.Second
	// tusPiece is the content type that the tus protocol requires for a request body that contains file bytes.
	tusPiece = "application/offset+octet-stream"
	// lockedRetry is the Retry-After value of the 423 (Locked) response that a HEAD request receives if the store
	// is unavailable.
	lockedRetry = 2 * time.Second
)

// uploads contains the methods of content.Store that only resumable uploads need.
type uploads interface {
	Create(ctx context.Context, u content.Upload) (content.Upload, error)
	Find(ctx context.Context, id string) (content.Upload, error)
	Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error)
	AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, verify func() error) (int64, error)
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Terminate(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
}

// tus serves resumable uploads with version 1.0.0 of the tus protocol (https://tus.io/protocols/resumable-upload).
type tus struct {
	*handler
	// owned is the handler for all requests except OPTIONS. It requires an access token with the files:write scope.
	owned http.Handler
}

// newTus returns the handler for resumable uploads. The handler serves tusPath and the paths below it.
func newTus(verifier *token.Verifier, h *handler) http.Handler {
	t := &tus{handler: h}
	create := routing.Methods{http.MethodPost: problem.HandlerFunc(t.create)}
	routes := routing.Table{
		tusPath:       create,
		tusPath + "/": create,
		tusPath + "/{id}": {
			http.MethodHead:   problem.HandlerFunc(t.show),
			http.MethodPatch:  problem.HandlerFunc(t.append),
			http.MethodDelete: problem.HandlerFunc(t.terminate),
		},
	}
	t.owned = verifier.Require(checkHeaders(routes.Handler()), token.ScopeFilesWrite)
	return t
}

// ServeHTTP implements http.Handler. An OPTIONS request requires no access token, because the response contains only
// the server's capabilities, which are public.
func (t *tus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Tus-Resumable", tusVersion)
	w.Header().Set("Cache-Control", "no-store")
	if method := r.Header.Get("X-HTTP-Method-Override"); method != "" && r.Method == http.MethodPost {
		r = r.WithContext(r.Context()) // a copy of the request, because the caller's request must not change
		r.Method = method
	}
	if r.Method == http.MethodOptions {
		problem.HandlerFunc(t.options).ServeHTTP(w, r)
		return
	}
	t.owned.ServeHTTP(w, r)
}

// checkHeaders returns a handler that rejects requests with an unsupported protocol version or content coding. The
// handler passes all other requests to next. A HEAD request can omit the version, as docs/openapi.yaml states.
func checkHeaders(next http.Handler) http.Handler {
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
			return problem.UnsupportedType.With("Content-Encoding is not supported: send the file without this header").
				Header("Accept-Encoding", "identity")
		}
		if r.Method != http.MethodHead && r.Header.Get("Tus-Resumable") != tusVersion {
			return problem.WrongTusVersion.With("send the header Tus-Resumable: %s", tusVersion).
				Header("Tus-Version", tusVersion)
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// options describes the server's capabilities. The status is 200, because some browsers accept no other status as the
// response to a preflight request.
func (t *tus) options(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Tus-Version", tusVersion)
	w.Header().Set("Tus-Extension", tusExtensions)
	w.Header().Set("Tus-Max-Size", strconv.FormatInt(t.maxSize, 10))
	w.Header().Set("Tus-Checksum-Algorithm", tusChecksums)
	w.WriteHeader(http.StatusOK)
	return nil
}

// create creates an upload. If the body has the content type tusPiece, the body contains the first bytes of the file.
// A body with any other content type is ignored.
func (t *tus) create(w http.ResponseWriter, r *http.Request) error {
	ctx, owner := r.Context(), token.Caller(r.Context()).Subject
	if r.Header.Get("Upload-Concat") != "" {
		return problem.BadRequest.With("concatenation is not supported: send the file as one upload, " +
			"without the Upload-Concat header")
	}
	length, err := strconv.ParseUint(r.Header.Get("Upload-Length"), 10, 63)
	if err != nil || r.Header.Get("Upload-Defer-Length") != "" {
		return errLength
	}
	metadata, err := parseMetadata(r.Header)
	if err != nil {
		return err
	}
	piece, err := pieceDigests(r.Header)
	if err != nil {
		return err
	}
	whole, err := integrityDigests(r.Header, "Repr-Digest")
	if err != nil {
		return err
	}
	if err := t.fits(int64(length)); err != nil {
		return err
	}
	u, err := t.files.Create(ctx, content.Upload{Owner: owner, Name: metadata.name, ContentType: metadata.contentType,
		Metadata: metadata.raw, SHA256: whole.sha256(), Length: int64(length), ExpiresAt: t.now().Add(tusLifetime)})
	if err != nil {
		return err
	}
	withPiece := r.Header.Get("Content-Type") == tusPiece
	if withPiece {
		u, err = t.receive(w, r, u, piece)
	} else {
		err = t.settle(ctx, u) // a file of 0 bytes is complete already
	}
	if err != nil {
		t.discard(ctx, u.ID, err)
		return err
	}
	if withPiece {
		setOffset(w, u)
	}
	w.Header().Set("Location", tusPath+"/"+u.ID)
	setExpires(w, u)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// show reports how many bytes of an upload are stored.
func (t *tus) show(w http.ResponseWriter, r *http.Request) error {
	u, err := t.find(r)
	if err == nil {
		// If an earlier request failed after it stored the last byte, settle completes the upload.
		err = t.settle(r.Context(), u)
	}
	if err != nil && problem.Status(err) == http.StatusServiceUnavailable {
		// Respond with a 423 (Locked), because tus-js-client repeats a HEAD request only after this status. After any
		// other error status, including 503, tus-js-client would start over and send the whole file again.
		return problem.Locked.Because(err, "the upload's offset is temporarily unavailable: send the HEAD request again").
			RetryAfter(lockedRetry)
	}
	if err != nil {
		return err
	}
	setOffset(w, u)
	w.Header().Set("Upload-Length", strconv.FormatInt(u.Length, 10))
	if u.Metadata != "" {
		w.Header().Set("Upload-Metadata", u.Metadata)
	}
	setExpires(w, u)
	w.WriteHeader(http.StatusOK)
	return nil
}

// append adds the bytes in the body to an upload.
func (t *tus) append(w http.ResponseWriter, r *http.Request) error {
	piece, err := pieceDigests(r.Header)
	if err != nil {
		return err
	}
	whole, err := integrityDigests(r.Header, "Repr-Digest")
	if err != nil {
		return err
	}
	if r.Header.Get("Content-Type") != tusPiece {
		return problem.UnsupportedType.With("send the bytes with the content type %s", tusPiece).
			Header("Accept-Patch", tusPiece)
	}
	if r.Header.Get("Upload-Length") != "" {
		return errLength
	}
	offset, err := strconv.ParseUint(r.Header.Get("Upload-Offset"), 10, 63)
	if err != nil {
		return problem.BadRequest.With("set Upload-Offset to the number of bytes that the server already has")
	}
	u, err := t.find(r)
	if err != nil {
		return err
	}
	// Accept a repeated Repr-Digest, because some clients send the same headers in all requests. Refuse any other
	// value, because it would be lost if this request is interrupted after the last byte.
	if sum := whole.sha256(); sum != "" && sum != u.SHA256 {
		return problem.BadRequest.With("the Repr-Digest header differs from the creation of the upload: " +
			"declare the digest of the whole file when you create the upload, and use Content-Digest for the body of this request")
	}
	if int64(offset) != u.Offset {
		return problem.Conflict.With("the server has %d bytes of the upload: "+
			"set Upload-Offset to this number and send the remaining bytes", u.Offset)
	}
	if u, err = t.receive(w, r, u, piece); err != nil {
		return err
	}
	setOffset(w, u)
	setExpires(w, u)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// terminate deletes an upload that is not complete.
func (t *tus) terminate(w http.ResponseWriter, r *http.Request) error {
	u, err := t.find(r)
	if err != nil {
		return err
	}
	if err := t.files.Terminate(r.Context(), u.ID); err != nil {
		return err
	}
	t.measureTus(r.Context(), u, telemetry.TusTerminated, 0)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// errLength reports that the Upload-Length header is missing, invalid, or in a request that cannot set the length.
var errLength = problem.BadRequest.With("set Upload-Length to the size of the file in bytes " +
	"when you create the upload, because the size cannot be sent later")

// setOffset sets the Upload-Offset header.
func setOffset(w http.ResponseWriter, u content.Upload) {
	w.Header().Set("Upload-Offset", strconv.FormatInt(u.Offset, 10))
}

// setExpires sets the Upload-Expires header. A complete upload does not expire and has no such header.
func setExpires(w http.ResponseWriter, u content.Upload) {
	if !u.Complete() {
		w.Header().Set("Upload-Expires", u.ExpiresAt.UTC().Format(http.TimeFormat))
	}
}

// find returns the upload that the path of r refers to. For another user's upload, the error is a problem.NotFound,
// which does not reveal that the upload exists.
func (t *tus) find(r *http.Request) (content.Upload, error) {
	u, err := t.files.Find(r.Context(), r.PathValue("id"))
	if err != nil {
		return content.Upload{}, err
	}
	if u.Owner != token.Caller(r.Context()).Subject {
		return content.Upload{}, problem.NotFound.With("there is no such upload")
	}
	return u, nil
}

// receive appends the body of r to the upload u and settles u. It returns u with the new offset, even if it returns an
// error. piece contains the declared digests of the body.
func (t *tus) receive(w http.ResponseWriter, r *http.Request, u content.Upload, piece digests) (content.Upload, error) {
	left := u.Length - u.Offset
	if r.ContentLength > left {
		return u, errTooLong
	}
	// Continue if the client disconnects or the deadline passes, so that the bytes that have arrived are stored. The
	// client can then continue at the next byte. function.Wrap sets the deadline of every request.
	deadline, _ := r.Context().Deadline()
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), deadline.Add(tusGrace))
	defer cancel()
	body, verify := piece.over(&pieceBody{r.Body, left, http.NewResponseController(w), deadline})
	var n int64
	var err error
	switch {
	case left == 0:
		err = verify() // do not append, because the store refuses to append to a complete upload
	case len(piece) == 0:
		n, err = t.files.Append(ctx, u.ID, u.Offset, body)
	default:
		n, err = t.files.AppendVerified(ctx, u.ID, u.Offset, body, verify)
	}
	u.Offset += n
	if err != nil {
		return u, err
	}
	return u, t.settle(ctx, u)
}

// settle turns a complete upload into a file and publishes the event that announces the file. It must be called
// before a response reports that all bytes have arrived, because the client then assumes that the file is stored.
func (t *tus) settle(ctx context.Context, u content.Upload) error {
	if !u.Complete() || u.Stored {
		return nil
	}
	f, err := t.files.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) })
	if err != nil {
		return err
	}
	// Publish the event that is stored in the file's document. It can differ from the event that this request
	// encoded, because another request might have turned the upload into a file first.
	e, err := events.Parse(f.Event)
	if err != nil {
		return fmt.Errorf("read file %s: %w", f.ID, err)
	}
	t.announce(ctx, e)
	t.measureTus(ctx, u, telemetry.TusStored, f.Size)
	return nil
}

// discard deletes an upload after the request that created the upload failed with err. The client cannot continue this
// upload, because the client has not received the upload's URL.
func (t *tus) discard(ctx context.Context, id string, err error) {
	if errors.Is(err, mongodb.ErrUnknown) {
		return // a write might still be done, so sweep discards the upload when it has expired
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	// A conflict means that the upload has become a file.
	if err := t.files.Discard(ctx, id); err != nil && !errors.Is(err, problem.Conflict) {
		slog.WarnContext(ctx, "could not discard upload after the request that created it failed", "id", id, "error", err)
	}
}

// measureTus records the metrics of a resumable upload that has ended. It calculates the upload's duration from the
// upload ID, which is a UUIDv7 and therefore contains the creation time.
func (t *tus) measureTus(ctx context.Context, u content.Upload, result telemetry.UploadResult, size int64) {
	if id, err := uuid.Parse(u.ID); err == nil {
		telemetry.Upload(ctx, result, size, t.now().Sub(time.Unix(id.Time().UnixTime())))
	}
}
