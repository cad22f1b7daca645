package catalog

import (
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// TestDocument checks the layout of a document in the catalog, because List queries its fields, and because a new
// version of Strongroom must be able to decode the documents of an old version.
func TestDocument(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_123).UTC()
	e := Entry{Info: file.Info{ID: "1", Owner: "ada", Name: "a.txt", Size: 2, SHA256: "0a", ContentType: "text/plain", StoredAt: at}, CataloguedAt: at}
	const want = `{"_id":"1","owner":"ada","name":"a.txt","size":{"$numberLong":"2"},"sha256":"0a","content_type":"text/plain",` +
		`"stored_at":{"$date":{"$numberLong":"1800000000123"}},"catalogued_at":{"$date":{"$numberLong":"1800000000123"}}}`
	if got, err := bson.MarshalExtJSON(e, true, false); err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	var decoded Entry
	if err := bson.UnmarshalExtJSON([]byte(want), true, &decoded); err != nil {
		t.Fatal(err)
	}
	if decoded != e { // the driver must return times in UTC
		t.Errorf("got %+v, want %+v", decoded, e)
	}
}

func TestCursor(t *testing.T) {
	want := cursor{time.UnixMilli(1_800_000_000_123), "0198c0de-0000-7000-8000-00000000000a"}
	got, err := parseCursor(want.String())
	if err != nil || !got.storedAt.Equal(want.storedAt) || got.id != want.id {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
}

func TestListRefuses(t *testing.T) {
	s := &Store{} // List sends no request for an invalid query
	encode := base64.RawURLEncoding.EncodeToString
	for name, q := range map[string]Query{
		"negative limit":       {Limit: -1},
		"limit too high":       {Limit: MaxLimit + 1},
		"not base64":           {Cursor: "%"},
		"padded base64":        {Cursor: base64.URLEncoding.EncodeToString([]byte("1.ab"))},
		"no ID":                {Cursor: encode([]byte("123."))},
		"no dot":               {Cursor: encode([]byte("123"))},
		"time is not a number": {Cursor: encode([]byte("x.id"))},
		"ID is not UTF-8":      {Cursor: encode([]byte("1.\xff"))},
		"time out of range":    {Cursor: encode([]byte("99999999999999999999.id"))},
	} {
		if _, _, err := s.List(t.Context(), q); !errors.Is(err, problem.BadRequest) {
			t.Errorf("%s: got error %v, want %v", name, err, problem.BadRequest)
		}
	}
}
