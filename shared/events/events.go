// Package events defines the CloudEvents (v1.0.2) that Strongroom's functions exchange. The package declares exchanges
// and queues for the events in RabbitMQ, publishes events and waits for confirmations, and decodes delivered events.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// TypeFileStored is the type of the event that announces a file. The event is published after all bytes of the
	// file have been stored. TypeFileStored is also the routing key of the event.
	TypeFileStored = "dev.strongroom.file.stored.v1"
	// SourceUpload is the source of all TypeFileStored events. The upload function publishes these events. When the
	// sweep function or the setup Job publishes an event again, it uses the same source, because the source and the id
	// identify an event.
	SourceUpload = "/strongroom/upload"
	// SchemaFileStored is the dataschema of TypeFileStored events. It is also the $id of file-stored.v1.schema.json in
	// this directory.
	SchemaFileStored = "https://github.com/strongroom-dev/strongroom/blob/main/shared/events/file-stored.v1.schema.json"
)

// FileStored is the data of a TypeFileStored event. It contains everything that the catalog stores about a file.
type FileStored struct {
	// ID is the ID of the file, a UUIDv7 in lower case. It is also the id and the subject of the event.
	ID string `json:"id"`
	// Owner is the ID of the user who uploaded the file. It has 1 to 128 characters.
	Owner string `json:"owner"`
	// Name is the file name that the user chose. It has 1 to 1024 characters. Every character is allowed.
	Name string `json:"name"`
	// Size is the size of the file in bytes. It is at most 2⁵³-1, the largest integer that every JSON parser can
	// represent exactly.
	Size int64 `json:"size"`
	// SHA256 is the SHA-256 hash of the file's bytes in lower-case hexadecimal.
	SHA256 string `json:"sha256"`
	// ContentType is the media type that the user declared or that the upload function detected. It has 1 to 255
	// printable ASCII characters.
	ContentType string `json:"content_type"`
	// StoredAt is the time at which the last byte of the file was stored. In JSON, it is an RFC 3339 timestamp in UTC
	// with at most nine fractional digits.
	StoredAt time.Time `json:"stored_at"`
}

// Trace adds the trace in ctx to the event e, in the CloudEvents extension "Distributed Tracing". The delivery and the
// processing of the event then belong to the same trace as its creation, even if the event is published much later.
func Trace(ctx context.Context, e *event.Event) { telemetry.Inherit(ctx, e.SetExtension) }

// NewFileStored returns the event that announces f. The event's source, id and time depend only on f, so a consumer
// recognizes several events that are created from the same f as duplicates. If f does not conform to the schema, the
// error wraps problem.Unprocessable.
func NewFileStored(f FileStored) (event.Event, error) {
	if !utf8.ValidString(f.Owner + f.Name + f.ContentType) {
		return event.Event{}, problem.Unprocessable.With("the file's name, owner or content type is not valid UTF-8")
	}
	f.StoredAt = f.StoredAt.UTC()
	data, err := json.Marshal(f)
	if err != nil {
		return event.Event{}, problem.Unprocessable.Because(err, "the event cannot be encoded as JSON")
	}
	// Check f with the rules for delivered events, so that no event is published that its consumer would reject.
	if _, err := parseFileStored(data); err != nil {
		return event.Event{}, err
	}
	e := event.New()
	e.SetType(TypeFileStored)
	e.SetSource(SourceUpload)
	e.SetID(f.ID)
	e.SetSubject(f.ID)
	e.SetTime(f.StoredAt)
	e.SetDataSchema(SchemaFileStored)
	if err := e.SetData(event.ApplicationJSON, json.RawMessage(data)); err != nil {
		return event.Event{}, fmt.Errorf("set the data of event %s: %w", f.ID, err)
	}
	if err := e.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("validate event %s: %w", f.ID, err)
	}
	return e, nil
}
