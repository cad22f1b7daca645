package events

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// MaxBody is the maximum length of a delivered event's HTTP body, in bytes. It is 64 KiB because every intermediary
// must forward events of up to this size (CloudEvents v1.0.2, "Size Limits"). A valid TypeFileStored event is always
// much shorter.
const MaxBody = 64 << 10

// Decode decodes the TypeFileStored event in the header and the body of an HTTP request. The event can be in
// structured mode or in binary mode (CloudEvents HTTP protocol binding).
//
// Every error wraps problem.Unprocessable and means that the event is poison: another delivery of the event would fail
// in the same way, so the event must not be retried. An event is poison in each of these cases:
//   - It is not a valid CloudEvent of version 1.0.
//   - Its type, source, dataschema or datacontenttype is not that of a TypeFileStored event.
//   - Its data does not conform to the schema.
//   - Its id or its subject differs from the id in its data.
func Decode(header http.Header, body []byte) (event.Event, file.Info, error) {
	e, err := read(header, body)
	if err != nil {
		return event.Event{}, file.Info{}, problem.Unprocessable.With("the request is not a valid CloudEvent: %v", err)
	}
	f, err := fileStored(e)
	if err != nil {
		return event.Event{}, file.Info{}, err
	}
	return *e, f, nil
}

// read returns the CloudEvent in the header and the body of an HTTP request.
func read(header http.Header, body []byte) (e *event.Event, err error) {
	defer func() {
		// Recover, because the CloudEvents SDK panics on some invalid events. For example, if data_base64 is not a
		// string, the SDK slices its value without a bounds check.
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

// fileStored returns the data of the event e. It returns an error if e is not a valid TypeFileStored event.
func fileStored(e *event.Event) (file.Info, error) {
	switch {
	case e.SpecVersion() != event.CloudEventsVersionV1:
		return file.Info{}, problem.Unprocessable.With("the event's specversion must be %s", event.CloudEventsVersionV1)
	case e.Type() != TypeFileStored:
		return file.Info{}, problem.Unprocessable.With("the event's type must be %s", TypeFileStored)
	case e.Source() != SourceUpload:
		return file.Info{}, problem.Unprocessable.With("the event's source must be %s", SourceUpload)
	case e.DataSchema() != "" && e.DataSchema() != SchemaFileStored:
		return file.Info{}, problem.Unprocessable.With("the event's dataschema must be %s", SchemaFileStored)
	case e.DataMediaType() != "" && e.DataMediaType() != event.ApplicationJSON:
		return file.Info{}, problem.Unprocessable.With("the event's datacontenttype must be %s", event.ApplicationJSON)
	}
	f, err := parseFileStored(e.Data())
	switch {
	case err != nil:
		return file.Info{}, err
	case e.ID() != f.ID:
		return file.Info{}, problem.Unprocessable.With("the event's id must be the same as the id in its data")
	case e.Subject() != "" && e.Subject() != f.ID:
		return file.Info{}, problem.Unprocessable.With("the event's subject must be the same as the id in its data")
	}
	return f, nil
}
