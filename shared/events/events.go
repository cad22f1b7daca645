// Package events defines, publishes and decodes the CloudEvents (v1.0.2) that Strongroom's functions send to each
// other. It also declares the RabbitMQ exchanges and queues for the events.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// TypeFileStored is the type and the routing key of the event that reports a new file. The event is published
	// after all bytes of the file have been stored.
	TypeFileStored = "dev.strongroom.file.stored.v1"
	// SourceUpload is the source of every TypeFileStored event, even if another function publishes the event again,
	// because consumers identify an event by its source and its id.
	SourceUpload = "/strongroom/upload"
	// SchemaFileStored is the dataschema of TypeFileStored events. It is also the $id of file-stored.v1.schema.json in
	// this directory.
	SchemaFileStored = "https://github.com/strongroom-dev/strongroom/blob/main/shared/events/file-stored.v1.schema.json"
)

// NewFileStored returns the TypeFileStored event for the file f. The event's source, id and time depend only on f, so
// that consumers recognize duplicates. If f violates the schema, the error wraps problem.Unprocessable.
func NewFileStored(ctx context.Context, f file.Info) (event.Event, error) {
	if !utf8.ValidString(f.Owner + f.Name + f.ContentType) {
		return event.Event{}, problem.Unprocessable.With("the file's name, owner or content type is not valid UTF-8")
	}
	f.StoredAt = f.StoredAt.UTC()
	data, err := json.Marshal(f)
	if err != nil {
		return event.Event{}, problem.Unprocessable.Because(err, "the event cannot be encoded as JSON")
	}
	// Check f against the rules for delivered events, so that no event is published that its consumer would reject.
	if _, err := parseFileStored(data); err != nil {
		return event.Event{}, fmt.Errorf("create the event for file %s: %w", f.ID, err)
	}
	e := event.New()
	e.SetType(TypeFileStored)
	e.SetSource(SourceUpload)
	e.SetID(f.ID)
	e.SetSubject(f.ID)
	e.SetTime(f.StoredAt)
	e.SetDataSchema(SchemaFileStored)
	// Add the trace in ctx to the event, so that the event's creation and delivery belong to the same trace, even if
	// the event is published much later.
	telemetry.Inherit(ctx, e.SetExtension)
	if err := e.SetData(event.ApplicationJSON, json.RawMessage(data)); err != nil {
		return event.Event{}, fmt.Errorf("set the data of event %s: %w", f.ID, err)
	}
	if err := e.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("validate event %s: %w", f.ID, err)
	}
	return e, nil
}

// Encode creates the event for the file f with NewFileStored, and returns the event as JSON. The content store saves
// this JSON in the file's database document.
func Encode(ctx context.Context, f file.Info) ([]byte, error) {
	e, err := NewFileStored(ctx, f)
	if err != nil {
		return nil, err
	}
	return e.MarshalJSON()
}

// Parse returns the event that Encode has encoded as JSON.
func Parse(encoded string) (e event.Event, err error) {
	if err := e.UnmarshalJSON([]byte(encoded)); err != nil {
		return event.Event{}, fmt.Errorf("decode an event: %w", err)
	}
	return e, nil
}
