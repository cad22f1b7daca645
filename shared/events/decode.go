package events

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/strictjson"
)

// MaxBody is the maximum length of a delivered event's HTTP body, in bytes. Intermediaries must forward events of
// up to this size (CloudEvents v1.0.2, "Size Limits").
const MaxBody = 64 << 10

// Decode decodes a TypeFileStored event from an HTTP request in CloudEvents structured or binary mode. Every error
// wraps problem.Unprocessable and means that another delivery of the event would also fail.
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
		// Recover, because the CloudEvents SDK panics on some invalid events, for example if data_base64 is not a
		// string.
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

// These patterns and the limits below repeat rules of file-stored.v1.schema.json, because compiling the schema at run
// time would delay the start of a function. TestSchema checks that they agree with the schema.
var (
	fileIDs      = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	digests      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	contentTypes = regexp.MustCompile(`^[ -~]{1,255}$`)
	timestamps   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?Z$`)
)

const (
	maxOwner = 128
	maxName  = 1024
	maxSize  = 1<<53 - 1
)

// parseFileStored parses the data of a TypeFileStored event, which must contain exactly the members of the schema.
// Errors wrap problem.Unprocessable and do not quote values from the data.
func parseFileStored(data []byte) (file.Info, error) {
	f, err := decodeFileStored(data)
	if err != nil {
		return file.Info{}, problem.Unprocessable.With("the data does not conform to the schema %s: %w", SchemaFileStored, err)
	}
	return f, nil
}

func decodeFileStored(data []byte) (file.Info, error) {
	var d struct {
		ID          string `json:"id"`
		Owner       string `json:"owner"`
		Name        string `json:"name"`
		Size        int64  `json:"size"`
		SHA256      string `json:"sha256"`
		ContentType string `json:"content_type"`
		StoredAt    string `json:"stored_at"`
	}
	if err := strictjson.Decode(data, &d); err != nil {
		return file.Info{}, err
	}
	storedAt, err := time.Parse(time.RFC3339Nano, d.StoredAt)
	for _, member := range []struct {
		name  string
		valid bool
	}{
		{"id", fileIDs.MatchString(d.ID)},
		{"owner", hasLength(d.Owner, maxOwner)},
		{"name", hasLength(d.Name, maxName)},
		{"size", d.Size >= 0 && d.Size <= maxSize},
		{"sha256", digests.MatchString(d.SHA256)},
		{"content_type", contentTypes.MatchString(d.ContentType)},
		{"stored_at", err == nil && timestamps.MatchString(d.StoredAt)},
	} {
		if !member.valid {
			return file.Info{}, fmt.Errorf("member %s is invalid", member.name)
		}
	}
	return file.Info{ID: d.ID, Owner: d.Owner, Name: d.Name, Size: d.Size, SHA256: d.SHA256, ContentType: d.ContentType, StoredAt: storedAt}, nil
}

// hasLength reports whether s has at least one character and at most limit characters.
func hasLength(s string, limit int) bool { return s != "" && utf8.RuneCountInString(s) <= limit }
