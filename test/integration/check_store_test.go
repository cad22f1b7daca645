package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestCheckStore proves that CheckStore and Unfinished find each kind of violation, and report nothing else.
func TestCheckStore(t *testing.T) {
	db := servertest.Database(t, servertest.MongoDB(t).NewDatabase(t))
	insert := func(collection string, document bson.D) {
		t.Helper()
		if _, err := db.Collection(collection).InsertOne(t.Context(), document); err != nil {
			t.Fatal(err)
		}
	}
	file := func(id, bytes, key string) {
		insert("fs.files", bson.D{{Key: "_id", Value: id}, {Key: "length", Value: int64(len(bytes))},
			{Key: "chunkSize", Value: int32(4)}, {Key: "filename", Value: "a.txt"}, {Key: "metadata", Value: bson.D{{Key: "owner", Value: "ada"},
				{Key: "sha256", Value: servertest.SHA256([]byte(bytes))}, {Key: "idempotency_key", Value: key}}}})
	}
	entry := func(id, bytes, name string) {
		insert("catalogue", bson.D{{Key: "_id", Value: id}, {Key: "owner", Value: "ada"}, {Key: "name", Value: name},
			{Key: "size", Value: int64(len(bytes))}, {Key: "sha256", Value: servertest.SHA256([]byte(bytes))}})
	}
	chunk := func(id string, n int32, bytes string) {
		insert("fs.chunks", bson.D{{Key: "files_id", Value: id}, {Key: "n", Value: n}, {Key: "data", Value: []byte(bytes)}})
	}
	const bytes = "0123456789"
	complete := func(id, key string) {
		file(id, bytes, key)
		entry(id, bytes, "a.txt")
		for _, n := range []int32{2, 0, 1} {
			chunk(id, n, bytes[4*n:min(4*n+4, 10)])
		}
	}
	var want []string
	for _, c := range []struct {
		what  string // a part of the violation; empty if CheckStore must find no violation
		store func(id string)
	}{
		{"", func(id string) { complete(id, "") }},
		{"", func(id string) { complete(id, "key 1") }},
		{"the same idempotency key", func(id string) { complete(id, "key 1") }},
		{"", func(id string) { complete(id, "key 2") }},
		{"", func(id string) { file(id, "", ""); entry(id, "", "a.txt") }},
		{"", func(id string) {
			ended := bson.D{{Key: "ended_at", Value: bson.DateTime(1)}}
			insert("fs.files", bson.D{{Key: "_id", Value: id}, {Key: "metadata", Value: ended}})
		}},
		{"the chunks have 0 bytes", func(id string) { file(id, bytes, ""); entry(id, bytes, "a.txt") }},
		{"the chunks have 4 bytes", func(id string) { file(id, bytes, ""); entry(id, bytes, "a.txt"); chunk(id, 0, "0123") }},
		{"chunk 0 is missing", func(id string) { file(id, "4567", ""); entry(id, "4567", "a.txt"); chunk(id, 1, "4567") }},
		{"the chunks have 4 bytes", func(id string) { file(id, "0123", ""); entry(id, "0123", "a.txt"); chunk(id, 0, "0124") }},
		{"the number of another chunk", func(id string) {
			file(id, "0123", "")
			entry(id, "0123", "a.txt")
			chunk(id, 0, "0123")
			chunk(id, 0, "0123")
		}},
		{"chunk 0 has 3 bytes", func(id string) {
			file(id, "01234", "")
			entry(id, "01234", "a.txt")
			chunk(id, 0, "012")
			chunk(id, 1, "34")
		}},
		{"no catalog entry", func(id string) { file(id, "", "") }},
		{"the catalog entry is", func(id string) { file(id, "", ""); entry(id, "", "b.txt") }},
		{"the catalog entry has no file", func(id string) { entry(id, "", "a.txt") }},
		{"1 chunks have neither", func(id string) { chunk(id, 0, "0123") }},
		{"1 documents in the journal", func(id string) { insert("uploads.journal", bson.D{{Key: "_id", Value: id + "/end"}}) }},
		{"the upload still has its note, with 1 chunks", func(id string) {
			insert("uploads", bson.D{{Key: "_id", Value: id}})
			insert("uploads.journal", bson.D{{Key: "_id", Value: id + "/end"}})
			chunk(id, 0, "0123")
		}},
		{"the deletion is not complete", func(id string) { insert("deletions", bson.D{{Key: "_id", Value: id}}) }},
	} {
		id := uuid.Must(uuid.NewV7()).String()
		c.store(id)
		if c.what != "" {
			want = append(want, id+": "+c.what)
		}
	}
	violations, err := servertest.CheckStore(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	state, err := servertest.ReadStore(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{} // the violations by ID
	for _, v := range append(violations, state.Unfinished()...) {
		got[v.ID] += fmt.Sprintln(v)
	}
	if len(got) != len(want) {
		t.Errorf("got violations of %d files and uploads, want %d", len(got), len(want))
	}
	for _, v := range want {
		id, what, _ := strings.Cut(v, ": ")
		if !strings.Contains(got[id], what) {
			t.Errorf("got the violations %q, want one that contains %q", got[id], what)
		}
		delete(got, id)
	}
	for _, v := range got {
		t.Errorf("got the violation %q, want none", v)
	}
	if !slices.IsSortedFunc(violations, func(a, b servertest.Violation) int { return strings.Compare(a.ID, b.ID) }) {
		t.Errorf("got the violations %v, want them sorted by ID", violations)
	}
}
