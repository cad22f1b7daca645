// Package request reads the bodies and the query strings of HTTP requests. If a request is invalid, the error is a
// problem.Problem, which a handler can return.
package request

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// TypeJSON is the media type of JSON (RFC 8259).
const TypeJSON = "application/json"

// bodyTime is the time limit for reading a request body with ReadBody. The server's read timeout is longer, because
// that timeout must allow for the longest upload.
const bodyTime = 5 * time.Second

// ReadBody reads a request body of at most limit bytes. The error is a problem.TooLarge if the body is longer, a
// problem.BodyTimeout if the body does not arrive within bodyTime and before the request's deadline, and a
// problem.BadRequest if reading fails for another reason.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	errTooLarge := problem.TooLarge.With("the limit is %d bytes", limit)
	if r.ContentLength > limit {
		return nil, errTooLarge
	}
	// Without this deadline, a client that sends its body very slowly could occupy the function for the whole
	// request timeout.
	deadline := time.Now().Add(bodyTime)
	if end, ok := r.Context().Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(deadline) // httptest.ResponseRecorder does not support deadlines
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	// Clear the deadline, because net/http would otherwise cancel the request when the deadline passes.
	// function.Linger and net/http set new deadlines for later reads.
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, problem.BodyTimeout.Because(err, "send the whole body without delay")
	default:
		return nil, problem.BadRequest.Because(err, "the body could not be read")
	}
}

// MediaType returns the media type in the Content-Type header, in lower case and without parameters. It returns an
// empty string if the header is missing or malformed. MediaType ignores the charset parameter, because neither JSON nor
// the media type of forms defines it (RFC 8259, Section 11), and many HTTP libraries add a wrong value. If the body has
// a content encoding, such as gzip, the error is a problem.UnsupportedType.
func MediaType(r *http.Request) (string, error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", problem.UnsupportedType.With("send the body without a content encoding").Header("Accept-Encoding", "identity")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", nil
	}
	return kind, nil
}

// ReadJSON decodes a JSON body of at most limit bytes into the struct that v points to. If the media type is not
// application/json, the error is a problem.UnsupportedType.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	kind, err := MediaType(r)
	if err != nil {
		return err
	}
	if kind != TypeJSON {
		return problem.UnsupportedType.With("send the body as %s in UTF-8", TypeJSON).Header("Accept", TypeJSON)
	}
	body, err := ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	return DecodeJSON(body, v)
}

// DecodeJSON decodes a JSON object into the flat struct that v points to. It rejects unknown members, so that no
// misspelled member is ignored. The error is a problem.BadRequest.
func DecodeJSON(body []byte, v any) error {
	if err := strictjson.Decode(body, v); err != nil {
		// The error contains no values from the body, because they might be secret.
		return problem.BadRequest.With("the body is invalid: %w", err)
	}
	return nil
}
