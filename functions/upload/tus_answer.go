package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"time"

	tusd "github.com/tus/tusd/v2/pkg/handler"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// errTooLong reports that a request body has more bytes than the upload still needs.
var errTooLong = problem.TooLarge.With("the body has more bytes than the upload still needs: send only the remaining bytes")

// pieceBody is the body of a request that contains bytes of a file. It records whether the body has ended and, if the
// body was interrupted, why.
type pieceBody struct {
	from io.ReadCloser
	// left is the number of bytes that may still be read from the body.
	left int64
	// ended reports whether the end of the body has been reached or a read has failed.
	ended bool
	// err is the first error that occurred while the body was read, or nil. It is never io.EOF.
	err error
}

// allow sets the number of bytes that the body may contain. Until allow is called, only an empty body is valid.
func (b *pieceBody) allow(n int64) { b.left = n }

// Read implements io.Reader. Before it returns the last allowed byte, it checks that no byte follows, because an
// upload with more bytes than declared must not count as complete.
func (b *pieceBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.left -= int64(n)
	if b.left == 0 && err == nil {
		var more [1]byte
		var follows int
		follows, err = io.ReadFull(b.from, more[:])
		b.left -= int64(follows)
	}
	if b.left < 0 {
		n, err = 0, errTooLong
	}
	if err != nil {
		b.ended = true
	}
	if err != nil && err != io.EOF && b.err == nil {
		b.err = brokenPiece(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *pieceBody) Close() error { return b.from.Close() }

// brokenPiece converts err, an error from reading a request body, to a problem. If the body arrived too slowly, the
// problem is a problem.Unavailable, so that the client retries.
func brokenPiece(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problem.Unavailable.Because(err, "the body arrived too slowly: get the offset with a HEAD request, and send the remaining bytes")
	}
	return broken(err)
}

// answer buffers the response from tusd, so that a problem document can still replace it.
type answer struct {
	to      http.ResponseWriter
	request context.Context
	body    *pieceBody
	header  http.Header
	status  int
	text    []byte
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter. It keeps the whole response body in memory, because tusd writes only
// one-line error descriptions.
func (a *answer) Write(p []byte) (int, error) {
	a.text = append(a.text, p...)
	return len(p), nil
}

// SetReadDeadline sets the connection's read deadline to t or to the request's deadline, whichever is earlier. tusd
// calls it through http.ResponseController after each read.
func (a *answer) SetReadDeadline(t time.Time) error {
	// After the body has ended, do not set the deadline t. Otherwise, net/http could cancel the request when t passes,
	// as if the client had disconnected.
	if end, ok := a.request.Deadline(); ok && (a.body.ended || t.After(end)) {
		t = end
	}
	return http.NewResponseController(a.to).SetReadDeadline(t)
}

// SetWriteDeadline does nothing, because the server has already set a write deadline that leaves time for the response.
func (a *answer) SetWriteDeadline(time.Time) error { return nil }

// verdict returns the error to send instead of the buffered response, or nil if the buffered response reports
// success.
func (t *tus) verdict(a *answer, x *exchange) error {
	switch {
	case x.err != nil:
		return x.err
	case a.status < http.StatusBadRequest:
		return nil
	case x.body.err != nil:
		return x.body.err
	}
	code, _, _ := strings.Cut(string(a.text), ":")
	switch code {
	case tusd.ErrUnsupportedVersion.ErrorCode:
		return problem.WrongTusVersion.With("send the header Tus-Resumable: %s", tusVersion).Header("Tus-Version", tusVersion)
	case tusd.ErrInvalidContentType.ErrorCode:
		return problem.UnsupportedType.With("send the bytes with the content type %s", tusPiece).Header("Accept-Patch", tusPiece)
	case tusd.ErrInvalidOffset.ErrorCode:
		return problem.BadRequest.With("set Upload-Offset to the number of bytes that the server already has")
	case tusd.ErrInvalidUploadLength.ErrorCode, tusd.ErrNotImplemented.ErrorCode,
		tusd.ErrUploadLengthAndUploadDeferLength.ErrorCode, tusd.ErrInvalidUploadDeferLength.ErrorCode:
		return problem.BadRequest.With("set Upload-Length to the size of the file in bytes when you create the upload, because the size cannot be sent later")
	case tusd.ErrMaxSizeExceeded.ErrorCode:
		return problem.TooLarge.With("a file may have at most %d bytes", t.limits.file)
	case tusd.ErrSizeExceeded.ErrorCode:
		return errTooLong
	case tusd.ErrMismatchOffset.ErrorCode:
		return problem.Conflict.With("the server has %d bytes of the upload: set Upload-Offset to this number and send the remaining bytes", x.upload.Offset)
	}
	return fmt.Errorf("unexpected response %d from tusd: %s", a.status, a.text)
}

// send writes the buffered response to the client. It adds the headers for the protocol features that tusd does not
// implement.
func (a *answer) send(x *exchange) {
	h := a.to.Header()
	maps.Copy(h, a.header)
	h.Del("Content-Length") // tusd sets this header for HEAD, but an upload has no content to download
	if h.Get("Tus-Extension") != "" {
		h.Set("Tus-Extension", tusExtensions)
		h.Set("Tus-Checksum-Algorithm", tusChecksums)
	}
	if x.created {
		h.Set("Location", tusPath+"/"+x.upload.ID)
	}
	if x.method == http.MethodHead && x.upload.Metadata != "" {
		h.Set("Upload-Metadata", x.upload.Metadata)
	}
	if x.method != http.MethodDelete && !x.upload.Complete() {
		h.Set("Upload-Expires", x.upload.ExpiresAt.UTC().Format(http.TimeFormat))
	}
	a.to.WriteHeader(a.status)
}
