package events_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// structured returns a request that delivers the event of info() in structured mode. replace contains new values for
// members of the event. nil removes a member.
func structured(t testing.TB, replace map[string]any) *http.Request {
	t.Helper()
	e, err := events.NewFileStored(t.Context(), info())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(body, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range replace {
		members[name] = value
		if value == nil {
			delete(members, name)
		}
	}
	if body, err = json.Marshal(members); err != nil {
		t.Fatal(err)
	}
	return post("application/cloudevents+json", string(body))
}

// binary returns a request that delivers the event of info() in binary mode. replace contains new values for
// headers. An empty value removes a header.
func binary(t testing.TB, replace map[string]string) *http.Request {
	t.Helper()
	f := info()
	f.StoredAt = f.StoredAt.UTC()
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	r := post("application/json", string(data))
	for name, value := range map[string]string{
		"specversion": "1.0", "type": events.TypeFileStored, "source": events.SourceUpload, "id": fileID, "subject": fileID,
		"time": "2026-03-01T11:30:00Z", "dataschema": events.SchemaFileStored,
	} {
		r.Header.Set("Ce-"+name, value)
	}
	for name, value := range replace {
		r.Header.Set(name, value)
		if value == "" {
			r.Header.Del(name)
		}
	}
	return r
}

func post(contentType, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return r
}

// decode calls events.Decode with the header and the body of r.
func decode(t testing.TB, r *http.Request) (event.Event, file.Info, error) {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return events.Decode(r.Header, body)
}

func TestDecode(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"structured":                          structured(t, nil),
		"structured with a charset":           withType(structured(t, nil), "application/cloudevents+json; charset=utf-8"),
		"structured without optional members": structured(t, map[string]any{"subject": nil, "time": nil, "dataschema": nil, "datacontenttype": nil}),
		"structured with an extension":        structured(t, map[string]any{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}),
		"binary":                              binary(t, nil),
		"binary with a charset":               binary(t, map[string]string{"Content-Type": "application/json; charset=utf-8"}),
		"binary with an extension":            binary(t, map[string]string{"Ce-Knativearrivaltime": "2026-03-01T11:30:00Z"}),
		"binary without optional headers":     binary(t, map[string]string{"Ce-Subject": "", "Ce-Time": "", "Ce-Dataschema": ""}),
	} {
		e, got, err := decode(t, r)
		if err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
			continue
		}
		want := info()
		want.StoredAt = want.StoredAt.UTC()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: data (-want +got):\n%s", name, diff)
		}
		if e.ID() != fileID || e.Type() != events.TypeFileStored {
			t.Errorf("%s: got event %s of type %s, want %s of type %s", name, e.ID(), e.Type(), fileID, events.TypeFileStored)
		}
	}
}

func withType(r *http.Request, contentType string) *http.Request {
	r.Header.Set("Content-Type", contentType)
	return r
}

func TestDecodePoison(t *testing.T) {
	other := "0190a5c2-7b1e-7c3d-9e4f-000000000000"
	for name, r := range map[string]*http.Request{
		"no content type and no body":           post("", ""),
		"an empty structured body":              post("application/cloudevents+json", ""),
		"JSON that is not an event":             post("application/json", `{"id":"x"}`),
		"broken JSON":                           post("application/cloudevents+json", `{"specversion":"1.0"`),
		"JSON null":                             post("application/cloudevents+json", `null`),
		"a batch":                               post("application/cloudevents-batch+json", `[]`),
		"XML":                                   post("application/cloudevents+xml", `<event/>`),
		"data_base64 that is not a string":      post("application/cloudevents+json", `{"specversion":"1.0","id":"1","data_base64":1}`),
		"no specversion":                        structured(t, map[string]any{"specversion": nil}),
		"specversion 0.3":                       structured(t, map[string]any{"specversion": "0.3", "dataschema": nil}),
		"specversion 2.0":                       structured(t, map[string]any{"specversion": "2.0"}),
		"no id":                                 structured(t, map[string]any{"id": nil}),
		"another id":                            structured(t, map[string]any{"id": other}),
		"no type":                               structured(t, map[string]any{"type": nil}),
		"another type":                          structured(t, map[string]any{"type": "dev.strongroom.file.stored.v2"}),
		"no source":                             structured(t, map[string]any{"source": nil}),
		"another source":                        structured(t, map[string]any{"source": "/elsewhere"}),
		"another subject":                       structured(t, map[string]any{"subject": other}),
		"another schema":                        structured(t, map[string]any{"dataschema": "https://example.com/schema"}),
		"an invalid time":                       structured(t, map[string]any{"time": "yesterday"}),
		"another data content type":             structured(t, map[string]any{"datacontenttype": "text/plain"}),
		"no data":                               structured(t, map[string]any{"data": nil}),
		"data that is not an object":            structured(t, map[string]any{"data": "text"}),
		"data with a member missing":            structured(t, map[string]any{"data": map[string]any{"id": fileID}}),
		"binary without an id":                  binary(t, map[string]string{"Ce-Id": ""}),
		"binary with another id":                binary(t, map[string]string{"Ce-Id": other}),
		"binary with another type":              binary(t, map[string]string{"Ce-Type": "com.example"}),
		"binary with text data":                 binary(t, map[string]string{"Content-Type": "text/plain"}),
		"binary with an invalid extension name": binary(t, map[string]string{"Ce-Bad_name": "x"}),
	} {
		if _, f, err := decode(t, r); !errors.Is(err, problem.Unprocessable) {
			t.Errorf("%s: got %+v and error %v, want problem.Unprocessable", name, f, err)
		}
	}
}

// FuzzDecode searches for requests on which Decode panics, and for events that Decode accepts although they are
// poison. The seeds are in testdata.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, contentType, ceType, ceID, body string) {
		r := post(contentType, body)
		if ceType != "" {
			r.Header.Set("Ce-Specversion", "1.0")
			r.Header.Set("Ce-Source", events.SourceUpload)
			r.Header.Set("Ce-Type", ceType)
			r.Header.Set("Ce-Id", ceID)
		}
		e, got, err := decode(t, r)
		if err != nil {
			if !errors.Is(err, problem.Unprocessable) {
				t.Errorf("got error %v, want problem.Unprocessable", err)
			}
			return
		}
		again, err := events.NewFileStored(t.Context(), got)
		if err != nil {
			t.Fatalf("Decode accepts %+v, but NewFileStored returns the error %v", got, err)
		}
		if again.ID() != e.ID() || again.Type() != e.Type() || again.Source() != e.Source() {
			t.Errorf("Decode accepts event %s of type %s and source %s with the data of event %s",
				e.ID(), e.Type(), e.Source(), again.ID())
		}
	})
}
