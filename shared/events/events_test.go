package events_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const fileID = "0190a5c2-7b1e-7c3d-9e4f-0123456789ab"

// info returns the data of a valid event.
func info() file.Info {
	return file.Info{
		ID:          fileID,
		Owner:       "0190a5c2-0000-7000-8000-000000000001",
		Name:        "Bericht \"Ä\"\n.pdf",
		Size:        20 << 20,
		SHA256:      strings.Repeat("0a", 32),
		ContentType: "application/pdf",
		StoredAt:    time.Date(2026, 3, 1, 12, 30, 0, 123456789, time.FixedZone("", 3600)),
	}
}

func TestNewFileStored(t *testing.T) {
	e, err := events.NewFileStored(t.Context(), info())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"specversion":     "1.0",
		"type":            "dev.strongroom.file.stored.v1",
		"source":          "/strongroom/upload",
		"id":              fileID,
		"subject":         fileID,
		"time":            "2026-03-01T11:30:00.123456789Z",
		"dataschema":      "https://github.com/strongroom-dev/strongroom/blob/main/shared/events/file-stored.v1.schema.json",
		"datacontenttype": "application/json",
		"data": map[string]any{
			"id":           fileID,
			"owner":        "0190a5c2-0000-7000-8000-000000000001",
			"name":         "Bericht \"Ä\"\n.pdf",
			"size":         float64(20 << 20),
			"sha256":       strings.Repeat("0a", 32),
			"content_type": "application/pdf",
			"stored_at":    "2026-03-01T11:30:00.123456789Z",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestNewFileStoredRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*file.Info){
		"no id":                      func(f *file.Info) { f.ID = "" },
		"a line break in the id":     func(f *file.Info) { f.ID += "\n" },
		"an id that is not a UUIDv7": func(f *file.Info) { f.ID = "0190a5c2-7b1e-4c3d-9e4f-0123456789ab" },
		"no owner":                   func(f *file.Info) { f.Owner = "" },
		"an owner that is not UTF-8": func(f *file.Info) { f.Owner = "\xff" },
		"no name":                    func(f *file.Info) { f.Name = "" },
		"a name that is not UTF-8":   func(f *file.Info) { f.Name = "a\xff" },
		"a name that is too long":    func(f *file.Info) { f.Name = strings.Repeat("ä", 1025) },
		"a negative size":            func(f *file.Info) { f.Size = -1 },
		"a size over 2⁵³-1":          func(f *file.Info) { f.Size = 1 << 53 },
		"a digest in upper case":     func(f *file.Info) { f.SHA256 = strings.ToUpper(f.SHA256) },
		"no content type":            func(f *file.Info) { f.ContentType = "" },
		"a tab in the content type":  func(f *file.Info) { f.ContentType = "a/b\t" },
		"a year with five digits":    func(f *file.Info) { f.StoredAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		f := info()
		spoil(&f)
		if e, err := events.NewFileStored(t.Context(), f); !errors.Is(err, problem.Unprocessable) {
			t.Errorf("%s: got event %v and error %v, want problem.Unprocessable", name, e, err)
		}
	}
}

func TestQueueDepthsOfASink(t *testing.T) {
	if got, err := events.QueueDepths(t.Context(), "http://127.0.0.1:1"); err != nil || got != (events.Depths{}) {
		t.Errorf("got %+v and error %v, want zeros, because a sink stores no messages", got, err)
	}
	for _, url := range []string{"", "amqp://u:hush@", "ftp://u:hush@h", "amqp://u:hu%sh@h"} {
		if _, err := events.QueueDepths(t.Context(), url); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: got error %v, want one that does not show the password", url, err)
		}
	}
	if _, err := events.QueueDepths(t.Context(), "amqp://u:hush@127.0.0.1:1"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("without a broker: got error %v, want problem.Unavailable", err)
	}
}
