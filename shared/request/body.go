// Package request reads the bodies and the query strings of HTTP requests. If a request is invalid, the error is a
// problem.Problem, which a handler can return so that the client gets a problem document.
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

// bodyTime is how long ReadBody waits for the end of a request body. ReadBody needs its own limit because the server's
// read timeout must be long enough for the longest upload, and is therefore too long for a small body.
const bodyTime = 5 * time.Second

// ReadBody reads the whole request body, which may have at most limit bytes. The body must arrive within bodyTime,
// because a client that sends its body very slowly could otherwise occupy the function for the whole request timeout.
//
// The error is a problem.TooLarge if the body is longer than limit, a problem.BodyTimeout if it arrives too late, and
// a problem.BadRequest if it cannot be read. If the Content-Length header exceeds limit, ReadBody does not read the
// body.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	errTooLarge := problem.TooLarge.With("the limit is %d bytes", limit)
	if r.ContentLength > limit {
		return nil, errTooLarge
	}
	deadline := time.Now().Add(bodyTime)
	if end, ok := r.Context().Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(deadline) // httptest.ResponseRecorder does not support deadlines
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	// Clear the deadline, because net/http would otherwise cancel the request when the deadline passes, even if the
	// body has been read. Later reads do not need this deadline, because Linger sets one for the rest of an unread
	// body, and net/http sets one for the next request on the connection.
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

// MediaType returns the media type of the request body in lower case, without its parameters. It returns an empty
// string if the Content-Type header is missing or malformed, or if it names a character set other than UTF-8. If the
// body has a content encoding, such as gzip, the error is a problem.UnsupportedType.
func MediaType(r *http.Request) (string, error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", problem.UnsupportedType.With("send the body without a content encoding").Header("Accept-Encoding", "identity")
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", nil
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "", nil
	}
	return kind, nil
}

// ReadJSON reads a JSON object of at most limit bytes from the request body, and decodes it into the struct that v
// points to. If the media type is not application/json, the error is a problem.UnsupportedType. ReadJSON also returns
// the errors of MediaType, ReadBody and DecodeJSON.
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

// DecodeJSON decodes a JSON object into the flat struct that v points to. Like strictjson.Decode, it rejects unknown
// members, so that a client that misspells a member does not get a success response for a request that was only partly
// carried out. If the body is invalid, the error is a problem.BadRequest. It contains no values from the body, because
// they might be secret.
func DecodeJSON(body []byte, v any) error {
	if err := strictjson.Decode(body, v); err != nil {
		return problem.BadRequest.With("the body is invalid: %w", err)
	}
	return nil
}
