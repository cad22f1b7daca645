package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	tusd "github.com/tus/tusd/v2/pkg/handler"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// errTooLong is what a body gets that is longer than what its upload lacks.
var errTooLong = problem.TooLarge.With("the body has more bytes than the upload lacks")

// pieceBody is the body of a request with a piece of a file. It knows whether and how it ended.
type pieceBody struct {
	from io.ReadCloser
	// left is how many more bytes may come.
	left int64
	// ended tells that there is nothing more to read, err why, if that is not the body's end.
	ended bool
	err   error
}

// allow lets n bytes in. Before it is called, none is.
func (b *pieceBody) allow(n int64) { b.left = n }

// Read implements io.Reader. It gives away the last byte that may come only when it knows that no other does: a file that
// is longer than declared is not one that is complete.
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

// brokenPiece is the problem of a body that ended early or came too slowly. Of the latter a client that is still there
// has to know that it may try again.
func brokenPiece(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problem.Unavailable.Because(err, "the body took too long: ask for the offset, and send the rest")
	}
	return broken(err)
}

// answer is what tusd writes its answer to: that is sent later, or a problem instead.
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

// Write implements http.ResponseWriter. tusd writes nothing but the line that tells of an error.
func (a *answer) Write(p []byte) (int, error) {
	a.text = append(a.text, p...)
	return len(p), nil
}

// SetReadDeadline is what tusd sets anew whenever something was read. It never goes beyond the request's own deadline; and
// when the body has ended it is that, since net/http takes a deadline that passes afterwards for a client that has left.
func (a *answer) SetReadDeadline(t time.Time) error {
	if end, ok := a.request.Deadline(); ok && (a.body.ended || t.After(end)) {
		t = end
	}
	return http.NewResponseController(a.to).SetReadDeadline(t)
}

// SetWriteDeadline does nothing: the server has set a deadline that leaves time for the answer.
func (a *answer) SetWriteDeadline(time.Time) error { return nil }

// verdict returns the problem that the request is answered with, or nil.
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
		return problem.WrongTusVersion.With("send Tus-Resumable: %s", tusVersion).Header("Tus-Version", tusVersion)
	case tusd.ErrInvalidContentType.ErrorCode:
		return problem.UnsupportedType.With("send the bytes as %s", tusPiece).Header("Accept-Patch", tusPiece)
	case tusd.ErrInvalidOffset.ErrorCode:
		return problem.BadRequest.With("send in Upload-Offset how many bytes are there already")
	case tusd.ErrInvalidUploadLength.ErrorCode, tusd.ErrNotImplemented.ErrorCode,
		tusd.ErrUploadLengthAndUploadDeferLength.ErrorCode, tusd.ErrInvalidUploadDeferLength.ErrorCode:
		return problem.BadRequest.With("send the file's length in bytes as Upload-Length, when the upload is created: it can not be told later")
	case tusd.ErrMaxSizeExceeded.ErrorCode:
		return problem.TooLarge.With("the limit is %d bytes", t.limits.file)
	case tusd.ErrSizeExceeded.ErrorCode:
		return errTooLong
	case tusd.ErrMismatchOffset.ErrorCode:
		return problem.Conflict.With("there are %d bytes", x.upload.Offset)
	}
	return fmt.Errorf("tusd answers %d: %s", a.status, a.text)
}

// send sends the answer, with what tusd does not know of.
func (a *answer) send(x *exchange) {
	h := a.to.Header()
	for name, values := range a.header {
		h[name] = values
	}
	h.Del("Content-Length") // of a HEAD: there is nothing to get here
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
