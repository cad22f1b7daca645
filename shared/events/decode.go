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

// maxBody bounds the body of a delivered event: 64 KiB is what every intermediary must forward (CloudEvents §Size
// limits), and many times what the longest FileStored needs.
const maxBody = 64 << 10

// Decode reads the TypeFileStored event that r delivers, in structured or binary mode (CloudEvents HTTP binding). An
// error wraps problem.Unprocessable where the event is poison, which no further delivery will cure, and
// problem.Unavailable where the body broke off underway. What poison is: not a CloudEvent 1.0, another type or source,
// data that the schema does not permit, or an id, subject or dataschema that contradicts the data.
func Decode(r *http.Request) (event.Event, FileStored, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		// The sender or the network failed, not the event: it will come again whole.
		return event.Event{}, FileStored{}, problem.Unavailable.Because(err, "the event broke off underway")
	}
	if len(body) > maxBody {
		return event.Event{}, FileStored{}, problem.Unprocessable.With("the event is larger than %d bytes", maxBody)
	}
	e, err := read(r.Header, body)
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
