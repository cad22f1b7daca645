// Package events is what Strongroom's functions tell each other: CloudEvents (v1.0.2) of a few types, where they travel
// in RabbitMQ, how they are published so that a success can be believed, and how they are read back.
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
	// TypeFileStored is the type of the event that a file's bytes are all in the store. It is also the routing key.
	TypeFileStored = "dev.strongroom.file.stored.v1"
	// SourceUpload is the source of the events that upload publishes, and sweep publishes again.
	SourceUpload = "/strongroom/upload"
	// SchemaFileStored is the dataschema of TypeFileStored and the $id of file-stored.v1.schema.json beside this file.
	SchemaFileStored = "https://github.com/strongroom-dev/strongroom/blob/main/shared/events/file-stored.v1.schema.json"
)

// FileStored is the data of a TypeFileStored event: all that the catalogue keeps of a file.
type FileStored struct {
	// ID of the file, a UUIDv7 in lower case; also the id and the subject of the event.
	ID string `json:"id"`
	// Owner is the id of the user who handed the file in, 1 to 128 characters.
	Owner string `json:"owner"`
	// Name that the user gave the file, 1 to 1024 characters of any kind.
	Name string `json:"name"`
	// Size of the file in bytes, at most 2⁵³-1: what every reader of JSON can hold.
	Size int64 `json:"size"`
	// SHA256 is the digest of the file's bytes in lower-case hexadecimal.
	SHA256 string `json:"sha256"`
	// ContentType is the media type that the user gave the file, 1 to 255 printable ASCII characters.
	ContentType string `json:"content_type"`
	// StoredAt is when the last byte was stored; in JSON it is RFC 3339 in UTC with at most nanoseconds.
	StoredAt time.Time `json:"stored_at"`
}

// Trace gives e the trace that ctx belongs to, by the CloudEvents extension "Distributed Tracing": what becomes of the
// event, even if it is published much later, can be seen beside what made it.
func Trace(ctx context.Context, e *event.Event) { telemetry.Inherit(ctx, e.SetExtension) }

// NewFileStored returns the event that tells of f. Every attribute that a delivery would otherwise make up (the time)
// or that tells events apart (source and id) is set, so that any number of deliveries are the same event. An f that
// the schema does not permit is an error that wraps problem.Unprocessable.
func NewFileStored(f FileStored) (event.Event, error) {
	if !utf8.ValidString(f.Owner + f.Name + f.ContentType) {
		return event.Event{}, problem.Unprocessable.With("the file's name, owner or content type is not UTF-8")
	}
	f.StoredAt = f.StoredAt.UTC()
	data, err := json.Marshal(f)
	if err != nil {
		return event.Event{}, problem.Unprocessable.Because(err, "the event can not be written as JSON")
	}
	// What goes out is read the way it will be read when it comes in: there is one set of rules.
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
		return event.Event{}, fmt.Errorf("event %s: %w", f.ID, err)
	}
	return e, nil
}
