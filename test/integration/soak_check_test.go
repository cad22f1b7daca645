package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// liveFiles selects the files that are neither deleted nor discarded. The document of a deleted file or of a discarded
// upload remains as a tombstone with the field metadata.ended_at.
var liveFiles = bson.D{{Key: "metadata.ended_at", Value: bson.D{{Key: "$exists", Value: false}}}}

// findings contains the differences between the stores and the ledger.
type findings struct {
	lost       []string // accepted uploads without their bytes or without a catalog entry
	duplicated []string // accepted uploads with more than one file
	orphans    []string // remains of uploads, and catalog entries without a file
	unaccepted int      // complete files of uploads that were not accepted
}

// storedFile is a document in fs.files.
type storedFile struct {
	ID       string `bson:"_id"`
	Name     string `bson:"filename"`
	Length   int64  `bson:"length"`
	Metadata struct {
		SHA256  string     `bson:"sha256"`
		EndedAt *time.Time `bson:"ended_at"`
	} `bson:"metadata"`
}

// storedChunk is a document in fs.chunks.
type storedChunk struct {
	File string `bson:"files_id"`
	N    int    `bson:"n"`
	Data []byte `bson:"data"`
}

// check compares the contents of the database with the ledger. It reads each collection once, in small batches.
func (s *soak) check(t *testing.T) (found findings) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	live, byName, ended := map[string]storedFile{}, map[string][]storedFile{}, map[string]bool{}
	for f := range documents[storedFile](ctx, t, s.db.Collection("fs.files"), 100, "metadata.event") {
		if f.Metadata.EndedAt == nil {
			live[f.ID] = f
			byName[f.Name] = append(byName[f.Name], f)
		} else {
			ended[f.ID] = true
		}
	}
	chunks := map[string]*sequence{}
	for c := range documents[storedChunk](ctx, t, s.db.Collection("fs.chunks"), 2) {
		if chunks[c.File] == nil {
			chunks[c.File] = &sequence{}
		}
		chunks[c.File].add(c)
	}
	entries := map[string]bool{}
	for e := range documents[struct {
		ID string `bson:"_id"`
	}](ctx, t, s.db.Collection("catalogue"), 100) {
		entries[e.ID] = true
	}

	// complete returns an empty string if the file has its bytes and a catalog entry.
	complete := func(f storedFile, want string) string {
		wrong := chunks[f.ID].compare(f, want)
		if wrong == "" && !entries[f.ID] {
			wrong = "got no catalog entry, want one"
		}
		return wrong
	}
	found.lost = slices.Clone(s.ledger.lost)
	for _, name := range sortedKeys(s.ledger.accepted) {
		want, files := s.ledger.accepted[name], byName[name]
		if len(files) > 1 {
			found.duplicated = append(found.duplicated, fmt.Sprintf("%s (%s): got %d files, want 1", name, want.id, len(files)))
		}
		if f, ok := live[want.id]; !ok {
			found.lost = append(found.lost, fmt.Sprintf("%s (%s): got no file, want one", name, want.id))
		} else if wrong := complete(f, want.sum); wrong != "" {
			found.lost = append(found.lost, fmt.Sprintf("%s (%s): %s", name, want.id, wrong))
		}
	}
	for _, name := range sortedKeys(byName) {
		if _, ok := s.ledger.accepted[name]; ok {
			continue
		}
		for i, f := range byName[name] {
			wrong := "got a second file, want at most one"
			if i == 0 {
				wrong = complete(f, s.ledger.open[name])
			}
			if wrong == "" {
				found.unaccepted++
				continue
			}
			found.orphans = append(found.orphans, fmt.Sprintf("%s (%s), which was not accepted: %s", name, f.ID, wrong))
		}
	}
	for _, id := range sortedKeys(chunks) {
		if _, ok := live[id]; !ok {
			found.orphans = append(found.orphans, fmt.Sprintf("%s: got %d chunks without a file, want none", id, chunks[id].chunks))
		}
	}
	for _, id := range sortedKeys(entries) {
		if _, ok := live[id]; !ok {
			found.orphans = append(found.orphans, fmt.Sprintf("%s: got a catalog entry without a file, want none", id))
		}
	}
	found.orphans = append(found.orphans, s.remains(ctx, t, ended)...)
	return found
}

// remains lists the documents that must not exist after the recovery. ended contains the IDs of the uploads that were
// ended without a file.
func (s *soak) remains(ctx context.Context, t *testing.T, ended map[string]bool) (list []string) {
	t.Helper()
	for _, name := range []string{"uploads", "uploads.journal", "deletions"} {
		var found []string
		for d := range documents[bson.M](ctx, t, s.db.Collection(name), 100) {
			found = append(found, fmt.Sprint(d["_id"]))
		}
		if len(found) > 0 {
			first := strings.Join(found[:min(10, len(found))], " ")
			list = append(list, fmt.Sprintf("%s: got %d documents, want none: %s", name, len(found), first))
		}
	}
	// Each claim names the file that upload returned for the idempotency key, or an upload that was ended before it
	// became a file.
	accepted := map[string]bool{}
	for _, f := range s.ledger.accepted {
		accepted[f.id] = true
	}
	for claim := range documents[struct {
		File struct {
			ID   string `bson:"_id"`
			Name string `bson:"filename"`
		} `bson:"file"`
	}](ctx, t, s.db.Collection("uploads.claims"), 100) {
		if !accepted[claim.File.ID] && !ended[claim.File.ID] {
			list = append(list, fmt.Sprintf("%s (%s): got a claim, but the upload was neither accepted nor ended", claim.File.Name, claim.File.ID))
		}
	}
	return list
}

// sequence computes the digest of a file from chunks that can arrive out of order.
type sequence struct {
	sum    hash.Hash
	next   int // the number of the next chunk
	length int64
	early  map[int][]byte // the chunks that arrived before their predecessors
	chunks int
	wrong  string // describes an invalid chunk
}

// add adds a chunk.
func (q *sequence) add(c storedChunk) {
	if q.sum == nil {
		q.sum, q.early = sha256.New(), map[int][]byte{}
	}
	q.chunks++
	if q.early[c.N] != nil || c.N < q.next {
		q.wrong = fmt.Sprintf("got chunk %d twice, want it once", c.N)
		return
	}
	q.early[c.N] = c.Data
	for data, ok := q.early[q.next]; ok; data, ok = q.early[q.next] {
		_, _ = q.sum.Write(data) // never returns an error
		q.length += int64(len(data))
		delete(q.early, q.next)
		q.next++
	}
}

// compare returns an empty string if the chunks are complete and have the digest want.
func (q *sequence) compare(f storedFile, want string) string {
	switch {
	case q == nil:
		return "got no chunks, want the bytes of the file"
	case q.wrong != "":
		return q.wrong
	case len(q.early) > 0:
		return fmt.Sprintf("got no chunk %d, want one", q.next)
	case q.length != f.Length:
		return fmt.Sprintf("got %d bytes in %d chunks, want %d bytes", q.length, q.chunks, f.Length)
	}
	if got := hex.EncodeToString(q.sum.Sum(nil)); got != want || f.Metadata.SHA256 != want {
		return fmt.Sprintf("got the digest %s, and %s in the document, want %s", got, f.Metadata.SHA256, want)
	}
	return ""
}

// documents returns the documents of a collection without the fields in omitted. It reads the given number of documents
// at a time. If the collection cannot be read, the test fails.
func documents[D any](ctx context.Context, t *testing.T, from *mongo.Collection, batch int32, omitted ...string) iter.Seq[D] {
	t.Helper()
	projection := bson.D{}
	for _, field := range omitted {
		projection = append(projection, bson.E{Key: field, Value: 0})
	}
	return func(yield func(D) bool) {
		// Without a batch size, FerretDB sends all documents in one reply, which can be too long.
		cursor, err := from.Find(ctx, bson.D{}, options.Find().SetBatchSize(batch).SetProjection(projection))
		if err != nil {
			t.Fatalf("read %s: %v", from.Name(), err)
		}
		defer cursor.Close(ctx)
		for cursor.Next(ctx) {
			var d D
			if err := cursor.Decode(&d); err != nil {
				t.Fatalf("decode a document of %s: %v", from.Name(), err)
			}
			if !yield(d) {
				return
			}
		}
		if err := cursor.Err(); err != nil {
			t.Fatalf("read %s: %v", from.Name(), err)
		}
	}
}
