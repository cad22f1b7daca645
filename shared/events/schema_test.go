package events

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const goodData = `{"id":"0190a5c2-7b1e-7c3d-9e4f-0123456789ab","owner":"0190a5c2-0000-7000-8000-000000000001","name":"a.txt",` +
	`"size":1,"sha256":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","content_type":"text/plain",` +
	`"stored_at":"2026-03-01T11:30:00.123456789Z"}`

// schema compiles file-stored.v1.schema.json. The compiled schema also checks formats, such as date-time.
func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	source, err := os.ReadFile("file-stored.v1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(source))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(SchemaFileStored, document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile(SchemaFileStored)
	if err != nil {
		t.Fatal(err)
	}
	if id := document.(map[string]any)["$id"]; id != SchemaFileStored {
		t.Fatalf("got $id %v, want %s", id, SchemaFileStored)
	}
	return compiled
}

// schemaAccepts reports whether data conforms to the JSON Schema s.
func schemaAccepts(s *jsonschema.Schema, data string) bool {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
	return err == nil && s.Validate(value) == nil
}

// TestSchema checks for each rule that the Go code and the JSON Schema agree.
func TestSchema(t *testing.T) {
	s := schema(t)
	replaced := func(member, value string) string {
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(goodData), &members); err != nil {
			t.Fatal(err)
		}
		if value == "" {
			delete(members, member)
		} else {
			members[member] = json.RawMessage(value)
		}
		data, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	quoted := func(s string) string {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	type rule struct {
		member, value string
		want          bool
	}
	rules := []rule{
		{"id", `"0190A5C2-7b1e-7c3d-9e4f-0123456789ab"`, false},
		{"id", `"0190a5c2-7b1e-4c3d-9e4f-0123456789ab"`, false},
		{"id", `"0190a5c2-7b1e-7c3d-ce4f-0123456789ab"`, false},
		{"id", `"0190a5c2-7b1e-7c3d-9e4f-0123456789ab\n"`, false},
		{"id", `"0190a5c27b1e7c3d9e4f0123456789ab"`, false},
		{"owner", `"u"`, true},
		{"owner", `""`, false},
		{"owner", quoted(strings.Repeat("ü", 128)), true},
		{"owner", quoted(strings.Repeat("ü", 129)), false},
		{"name", `"\n\u0000\u202e"`, true},
		{"name", `""`, false},
		{"name", quoted(strings.Repeat("😀", 1024)), true},
		{"name", quoted(strings.Repeat("😀", 1025)), false},
		{"size", `0`, true},
		{"size", `-0`, true},
		{"size", `-1`, false},
		{"size", `1.5`, false},
		{"size", `9007199254740991`, true},
		{"size", `9007199254740992`, false},
		{"size", `99999999999999999999`, false},
		{"size", `"1"`, false},
		{"sha256", quoted(strings.Repeat("a", 63)), false},
		{"sha256", quoted(strings.Repeat("a", 65)), false},
		{"sha256", quoted(strings.Repeat("A", 64)), false},
		{"sha256", quoted(strings.Repeat("g", 64)), false},
		{"content_type", `""`, false},
		{"content_type", quoted(strings.Repeat("x", 255)), true},
		{"content_type", quoted(strings.Repeat("x", 256)), false},
		{"content_type", `"text/ä"`, false},
		{"content_type", `"text/plain\n"`, false},
		{"stored_at", `"2026-03-01T11:30:00Z"`, true},
		{"stored_at", `"2026-03-01T11:30:00.1Z"`, true},
		{"stored_at", `"2024-02-29T00:00:00Z"`, true},
		{"stored_at", `"2026-02-29T00:00:00Z"`, false},
		{"stored_at", `"2026-03-01T24:00:00Z"`, false},
		{"stored_at", `"2026-03-01T23:59:60Z"`, false},
		{"stored_at", `"2026-03-01T11:30:00,1Z"`, false},
		{"stored_at", `"2026-03-01T11:30:00.1234567891Z"`, false},
		{"stored_at", `"2026-03-01T11:30:00+01:00"`, false},
		{"stored_at", `"2026-03-01t11:30:00z"`, false},
		{"stored_at", `"2026-03-01"`, false},
		{"extra", `1`, false},
		{"ID", `"0190a5c2-7b1e-7c3d-9e4f-0123456789ab"`, false},
	}
	for _, member := range []string{"id", "owner", "name", "size", "sha256", "content_type", "stored_at"} {
		for _, value := range []string{"", "null", "true", "[]", "{}"} {
			rules = append(rules, rule{member, value, false})
		}
		if member != "size" {
			rules = append(rules, rule{member, "1", false})
		}
	}
	check := func(data string, want bool) {
		t.Helper()
		_, err := parseFileStored([]byte(data))
		if got := err == nil; got != want {
			t.Errorf("%s: got valid %t and error %v from Go, want valid %t", data, got, err, want)
		}
		if got := schemaAccepts(s, data); got != want {
			t.Errorf("%s: got valid %t from the schema, want %t", data, got, want)
		}
	}
	check(goodData, true)
	for _, data := range []string{"", "null", "[]", "1", `"a"`, "{}", "{", goodData + "x", goodData + "{}", goodData[1:]} {
		check(data, false)
	}
	for _, r := range rules {
		check(replaced(r.member, r.value), r.want)
	}
}

// TestStricterThanSchema checks that the Go code refuses some data that the JSON Schema accepts or cannot describe.
func TestStricterThanSchema(t *testing.T) {
	for name, data := range map[string]string{
		"a repeated member":           strings.Replace(goodData, `"size":1`, `"size":1,"size":1`, 1),
		"an integer as a decimal":     strings.Replace(goodData, `"size":1`, `"size":1.0`, 1),
		"an integer with an exponent": strings.Replace(goodData, `"size":1`, `"size":1e0`, 1),
		"bytes that are not UTF-8":    strings.Replace(goodData, `a.txt`, "a\xff.txt", 1),
	} {
		if f, err := parseFileStored([]byte(data)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, f)
		}
	}
}

// FuzzParse searches for data on which the parser panics, and for data that the Go code accepts although it does not
// conform to the schema. Other readers of the events would not expect such data.
func FuzzParse(f *testing.F) {
	s := schema(f)
	f.Add(goodData)
	f.Add(strings.Replace(goodData, `"size":1`, `"size":1,"size":1`, 1))
	f.Add(strings.Replace(goodData, `"size"`, `"SIZE"`, 1))
	f.Add(strings.Replace(goodData, "a.txt", `\ud800`, 1))
	f.Fuzz(func(t *testing.T, data string) {
		if _, err := parseFileStored([]byte(data)); err == nil && !schemaAccepts(s, data) {
			t.Errorf("Go accepts data that does not conform to the schema: %s", data)
		}
	})
}
