package function

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/jsonobject"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// TypeJSON is the media type of JSON (RFC 8259).
const TypeJSON = "application/json"

// bodyTime bounds how long ReadBody waits for a body. The deadline of the server is that of the longest upload.
const bodyTime = 5 * time.Second

// ReadBody reads the whole body of a request, of at most limit bytes. The body must arrive within bodyTime, whatever the
// time limit of the request is: a client could otherwise occupy a place of the function with a few bytes for all of that
// time. An error is a problem.TooLarge, before the body is read if its length is known, a problem.BodyTimeout, or a
// problem.BadRequest.
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
	_ = rc.SetReadDeadline(deadline) // httptest.ResponseRecorder has no deadlines
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	// net/http cancels a request, such as one without a body, whose read deadline passes while the handler works. It sets
	// the deadline again for the next request on the connection. Linger sets its own for the rest of a body that was not
	// read to its end.
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, problem.BodyTimeout.Because(err, "send the whole body without a pause")
	default:
		return nil, problem.BadRequest.Because(err, "the body could not be read")
	}
}

// MediaType returns the media type of a request's body, without parameters and in lower case. It is empty where it is
// malformed, and for text in another character set than UTF-8. A body with a content encoding is a
// problem.UnsupportedType.
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

// ReadJSON reads a request's body, a JSON object of at most limit bytes, into the struct that v points to, as
// DecodeJSON does. Another content type is a problem.UnsupportedType.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	kind, err := MediaType(r)
	if err != nil {
		return err
	}
	if kind != TypeJSON {
		return problem.UnsupportedType.With("send the body as %s, in UTF-8", TypeJSON).Header("Accept", TypeJSON)
	}
	body, err := ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	return DecodeJSON(body, v)
}

// DecodeJSON reads a JSON object into the flat struct that v points to. It is strict where encoding/json is not: it
// refuses members that the struct does not name, those whose case differs, those that occur twice or are null, and what
// follows the object. A misspelt member is better found now than by a change that never comes. An error is a
// problem.BadRequest that repeats nothing of the body, which may have secrets in it.
func DecodeJSON(body []byte, v any) error {
	known := memberNames(v)
	malformed := problem.BadRequest.With("the body must be one JSON object in UTF-8, with the members %s", strings.Join(known, ", "))
	unknown := problem.BadRequest.With("the body may have the members %s and nothing else, each once", strings.Join(known, ", "))
	members, err := jsonobject.Members(body)
	if errors.Is(err, jsonobject.ErrTwice) {
		return unknown
	}
	if err != nil {
		return malformed
	}
	for name, value := range members {
		if !slices.Contains(known, name) {
			return unknown
		}
		if string(value) == "null" {
			return problem.BadRequest.With("%s may not be null", name)
		}
	}
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(body, v); errors.As(err, &wrong) {
		return problem.BadRequest.With("%s must be a %s", wrong.Field, jsonName(wrong.Type))
	} else if err != nil {
		return fmt.Errorf("decode the body: %w", err)
	}
	return nil
}

// memberNames returns the names that the `json` tags of the struct give, which v points to.
func memberNames(v any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(v).Elem()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// jsonName is what JSON calls a type.
func jsonName(t reflect.Type) string {
	if t.Kind() == reflect.Bool {
		return "boolean"
	}
	return t.Kind().String()
}
