package catalog

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
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
	const previous = `{"_id":"1","owner":"ada","name":"a.txt","size":{"$numberLong":"2"},"sha256":"0a","content_type":"text/plain",` +
		`"stored_at":{"$date":{"$numberLong":"1800000000123"}},"catalogued_at":{"$date":{"$numberLong":"1800000000123"}}`
	const want = previous + `,"name_key":"a.txt","words":["a","txt"]}`
	if got, err := bson.MarshalExtJSON(document{e, keysOf(e.Name)}, true, false); err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
	for _, text := range []string{want, previous + "}"} {
		var decoded document
		if err := bson.UnmarshalExtJSON([]byte(text), true, &decoded); err != nil {
			t.Fatal(err)
		}
		if decoded.Entry != e { // the driver must return times in UTC
			t.Errorf("got %+v, want %+v", decoded.Entry, e)
		}
	}
}

// TestKeys checks the fields by which List sorts and searches. The first 3 columns are a name and its keys.
func TestKeys(t *testing.T) {
	many := make([]string, 40)
	for i := range many {
		many[i] = string(rune('a'+i/26)) + string(rune('a'+i%26))
	}
	for name, want := range map[string]keys{
		"a.txt":                          {"a.txt", []string{"a", "txt"}},
		"Annual REPORT_2026 (final).PDF": {"annual report_2026 (final).pdf", []string{"annual", "report", "2026", "final", "pdf"}},
		"a a A \uff21":                   {"a a a a", []string{"a"}}, // U+FF21 is a full-width A
		"Stra\u00dfe":                    {"strasse", []string{"strasse"}},
		"\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2": {"\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3", []string{"\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c3"}}, // both forms of a small sigma
		"cafe\u0301":                        {"caf\u00e9", []string{"caf\u00e9"}},
		"\ufb01le \u00b2":                   {"file 2", []string{"file", "2"}}, // a ligature and a superscript
		"q\u0307y":                          {"q\u0307y", []string{"q\u0307y"}},
		"\u2764\ufe0f.txt":                  {"\u2764\ufe0f.txt", []string{"txt"}}, // a mark alone is not a word
		"!?":                                {"!?", []string{}},
		strings.Repeat("\u20ac", 80):        {strings.Repeat("\u20ac", 42), []string{}},
		strings.Repeat("\u00e9", 100):       {strings.Repeat("\u00e9", 64), []string{strings.Repeat("\u00e9", 32)}},
		"a" + strings.Repeat("\u00e9", 100): {"a" + strings.Repeat("\u00e9", 63), []string{"a" + strings.Repeat("\u00e9", 31)}},
		strings.Join(many, " "):             {strings.Join(many, " ")[:119], many[:32]},
	} {
		if got := keysOf(name); got.NameKey != want.NameKey || !slices.Equal(got.Words, want.Words) || got.Words == nil {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// encode returns a cursor with the given text.
func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// TestCursor checks the cursor of each order. The cursor of the default order must not change, because clients have
// cursors of the previous version.
func TestCursor(t *testing.T) {
	const id = "0198c0de-0000-7000-8000-00000000000a"
	at := time.UnixMilli(1_800_000_000_123).UTC()
	d := document{Entry{Info: file.Info{ID: id, Size: 7, StoredAt: at}}, keys{NameKey: "a.b c"}}
	cursors := map[string]string{}
	for sort, c := range map[string]struct {
		want  string
		value any
	}{
		"-date": {"1800000000123." + id, at},
		"date":  {"d1800000000123." + id, at},
		"size":  {"s7." + id, int64(7)},
		"-size": {"S7." + id, int64(7)},
		"name":  {"na.b c." + id, "a.b c"},
		"-name": {"Na.b c." + id, "a.b c"},
	} {
		cursors[sort] = orders[sort].cursor(d)
		if want := encode(c.want); cursors[sort] != want {
			t.Errorf("%s: got %q, want %q", sort, cursors[sort], want)
		}
		if got, err := orders[sort].parseCursor(cursors[sort]); err != nil || *got != (cursor{c.value, id}) {
			t.Errorf("%s: got %+v (%v), want %+v and %s", sort, got, err, c.value, id)
		}
	}
	for sort, o := range orders {
		for other, text := range cursors {
			if _, err := o.parseCursor(text); other != sort && err == nil {
				t.Errorf("got no error for a cursor of %s in a list that is sorted by %s", other, sort)
			}
		}
	}
	d.Keys.NameKey = "" // an entry without keys
	if got, err := orders["name"].parseCursor(orders["name"].cursor(d)); err != nil || *got != (cursor{nil, id}) {
		t.Errorf("entry without keys: got %+v (%v), want no value and %s", got, err, id)
	}
}

func TestListRefuses(t *testing.T) {
	s := &Store{} // List sends no request for an invalid query
	for name, q := range map[string]Query{
		"negative limit":            {Limit: -1},
		"limit too high":            {Limit: MaxLimit + 1},
		"not base64":                {Cursor: "%"},
		"padded base64":             {Cursor: base64.URLEncoding.EncodeToString([]byte("1.ab"))},
		"no ID":                     {Cursor: encode("123.")},
		"no dot":                    {Cursor: encode("123")},
		"time is not a number":      {Cursor: encode("x.id")},
		"ID is not UTF-8":           {Cursor: encode("1.\xff")},
		"time out of range":         {Cursor: encode("99999999999999999999.id")},
		"size is not a number":      {Owner: "ada", Sort: "size", Cursor: encode("sx.id")},
		"name is not UTF-8":         {Owner: "ada", Sort: "name", Cursor: encode("n\xff.id")},
		"cursor of another order":   {Owner: "ada", Sort: "name", Cursor: encode("1.id")},
		"unknown order":             {Owner: "ada", Sort: "owner"},
		"order of another case":     {Owner: "ada", Sort: "Name"},
		"all users, sorted by name": {Sort: "name"},
		"all users, sorted by size": {Sort: "-size"},
		"owner is not UTF-8":        {Owner: "\xff"},
		"owner with a NUL":          {Owner: "a\x00b"},
		"owner with a line break":   {Owner: "a\nb"},
		"cursor with a NUL":         {Cursor: encode("1.a\x00b")},
		"name with a NUL":           {Owner: "ada", Sort: "name", Cursor: encode("na\x00b.id")},
		"search for a long text":    {Name: strings.Repeat("x", MaxName+1)},
		"search is not UTF-8":       {Name: "\xff"},
		"search for a NUL":          {Name: "\x00"},
		"search with a NUL":         {Name: "a\x00b"},
		"search with a line break":  {Name: "a\nb"},
		"search with a C1 control":  {Name: "a\u0085b"},
		"search without a word":     {Name: ".*"},
		"search for a space":        {Name: " "},
		"search for a mark":         {Name: "\u0301"},
	} {
		if _, _, err := s.List(t.Context(), q); !errors.Is(err, problem.BadRequest) {
			t.Errorf("%s: got error %v, want %v", name, err, problem.BadRequest)
		}
	}
}
