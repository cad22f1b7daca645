package events

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// MaxBody bounds the body of a delivered event, in bytes. Every intermediary must forward 64 KiB (CloudEvents §Size limits),
// which is many times the length of the longest FileStored.
const MaxBody = 64 << 10

// Decode reads the TypeFileStored event in the header and the body of an HTTP request, in structured or binary mode
// (CloudEvents HTTP binding). An error wraps problem.Unprocessable: the event is poison, and no further delivery will help.
// An event is poison if it is not a CloudEvent 1.0, has another type or source, has data that the schema does not permit, or
// has an id, subject or dataschema that contradicts the data.
func Decode(header http.Header, body []byte) (event.Event, FileStored, error) {
	e, err := read(header, body)
	if err != nil {
		return event.Event{}, FileStored{}, problem.Unprocessable.With("the request is not a valid CloudEvent: %v", err)
	}
	f, err := fileStored(e)
	if err != nil {
		return event.Event{}, FileStored{}, err
	}
	return *e, f, nil
}

// read takes the CloudEvent out of an HTTP request's header and body.
func read(header http.Header, body []byte) (e *event.Event, err error) {
	defer func() {
		// The SDK slices without looking in some places, such as a data_base64 that is no string.
		if cause := recover(); cause != nil {
			e, err = nil, fmt.Errorf("read the event: panic: %v", cause)
		}
	}()
	e, err = cehttp.NewEventFromHTTPRequest(&http.Request{Header: header, Body: io.NopCloser(bytes.NewReader(body))})
	if err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("validate the event: %w", err)
	}
	return e, nil
}

// fileStored takes the data out of a TypeFileStored event.
func fileStored(e *event.Event) (FileStored, error) {
	switch {
	case e.SpecVersion() != event.CloudEventsVersionV1:
		return FileStored{}, problem.Unprocessable.With("the event's specversion is not %s", event.CloudEventsVersionV1)
	case e.Type() != TypeFileStored:
		return FileStored{}, problem.Unprocessable.With("the event's type is not %s", TypeFileStored)
	case e.Source() != SourceUpload:
		return FileStored{}, problem.Unprocessable.With("the event's source is not %s", SourceUpload)
	case e.DataSchema() != "" && e.DataSchema() != SchemaFileStored:
		return FileStored{}, problem.Unprocessable.With("the event's dataschema is not %s", SchemaFileStored)
	case e.DataMediaType() != "" && e.DataMediaType() != event.ApplicationJSON:
		return FileStored{}, problem.Unprocessable.With("the event's datacontenttype is not %s", event.ApplicationJSON)
	}
	f, err := parseFileStored(e.Data())
	switch {
	case err != nil:
		return FileStored{}, err
	case e.ID() != f.ID:
		return FileStored{}, problem.Unprocessable.With("the event's id is not that of its data")
	case e.Subject() != "" && e.Subject() != f.ID:
		return FileStored{}, problem.Unprocessable.With("the event's subject is not the id of its data")
	}
	return f, nil
}
