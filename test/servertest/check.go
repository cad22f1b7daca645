package servertest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// StoredFile contains the properties of a file that both its document and its catalog entry have.
type StoredFile struct {
	Owner, Name, SHA256 string
	Size                int64
}

// StoreState describes what the collections of files, uploads and catalog entries contain. It does not contain the
// bytes of the files. All maps are indexed by the ID of the file or upload.
type StoreState struct {
	Files      map[string]StoredFile // the files, without the tombstones
	Tombstones map[string]bool       // the documents that replace deleted files and discarded uploads
	Entries    map[string]StoredFile // the catalog entries
	Notes      map[string]bool       // the documents in the uploads collection
	Deletions  map[string]bool       // the documents in the deletions collection
	Chunks     map[string]int        // the number of chunks
	Journal    map[string]int        // the number of documents in the uploads.journal collection

	keys    map[string]string   // the idempotency keys of the files
	corrupt map[string][]string // what is wrong with the bytes of the files
}

// Violation describes a rule that a database violates.
type Violation struct {
	// ID is the ID of the file or upload.
	ID   string
	What string
}

func (v Violation) String() string { return v.ID + ": " + v.What }

// CheckStore returns the violations in a database, sorted by ID. It must be called while no function uses the database.
// The violations are: a file with missing or wrong bytes, chunks without a file or note, a journal without a note, a
// catalog entry without a file or with properties that differ from the file's, a file without an entry, and two files
// with the same idempotency key. CheckStore does not report notes and deletion records (see Unfinished).
func CheckStore(ctx context.Context, db *mongo.Database) ([]Violation, error) {
	s, err := ReadStore(ctx, db)
	return s.Violations(), err
}

// Violations returns the violations that CheckStore describes.
func (s StoreState) Violations() []Violation {
	found := s.ContentViolations()
	add := func(id, format string, args ...any) {
		found = append(found, Violation{id, fmt.Sprintf(format, args...)})
	}
	firsts := map[string]string{} // the first file of each idempotency key
	for _, id := range slices.Sorted(maps.Keys(s.Files)) {
		if entry, ok := s.Entries[id]; !ok {
			add(id, "the file has no catalog entry")
		} else if entry != s.Files[id] {
			add(id, "the catalog entry is %+v, but the file is %+v", entry, s.Files[id])
		}
		if key := s.keys[id]; key != "" {
			if first := firsts[key]; first != "" {
				add(id, "the file %s has the same idempotency key", first)
			}
			firsts[key] = cmp.Or(firsts[key], id)
		}
	}
	for id := range s.Entries {
		if _, ok := s.Files[id]; !ok {
			add(id, "the catalog entry has no file")
		}
	}
	for id, n := range s.Journal {
		if !s.Notes[id] {
			add(id, "%d documents in the journal have no note", n)
		}
	}
	sortViolations(found)
	return found
}

// ContentViolations returns the violations that concern the bytes of files. They do not depend on the catalog.
func (s StoreState) ContentViolations() []Violation {
	var found []Violation
	for id, whats := range s.corrupt {
		for _, what := range whats {
			found = append(found, Violation{id, what})
		}
	}
	for id, n := range s.Chunks {
		if _, ok := s.Files[id]; !ok && !s.Notes[id] {
			found = append(found, Violation{id, fmt.Sprintf("%d chunks have neither a file nor a note", n)})
		}
	}
	sortViolations(found)
	return found
}

// Unfinished returns a violation for each note and each deletion record. A database has none of them after sweep has
// completed all work.
func (s StoreState) Unfinished() []Violation {
	var found []Violation
	for id := range s.Notes {
		found = append(found, Violation{id, fmt.Sprintf("the upload still has its note, with %d chunks", s.Chunks[id])})
	}
	for id := range s.Deletions {
		found = append(found, Violation{id, "the deletion is not complete"})
	}
	sortViolations(found)
	return found
}

func sortViolations(v []Violation) {
	slices.SortFunc(v, func(a, b Violation) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.What, b.What)) })
}

// ReadStore reads the state of a database.
func ReadStore(ctx context.Context, db *mongo.Database) (StoreState, error) {
	s := StoreState{
		Files: map[string]StoredFile{}, Tombstones: map[string]bool{}, Entries: map[string]StoredFile{},
		Notes: map[string]bool{}, Deletions: map[string]bool{}, Chunks: map[string]int{}, Journal: map[string]int{},
		keys: map[string]string{}, corrupt: map[string][]string{},
	}
	contents := map[string]*contents{}
	chunkSizes := map[string]int64{}
	for _, c := range []struct {
		collection string
		projection bson.D
		add        func(id string, document bson.Raw)
	}{
		{"fs.chunks", nil, func(_ string, document bson.Raw) {
			id := text(document, "files_id")
			s.Chunks[id]++
			if contents[id] == nil {
				contents[id] = newContents()
			}
			_, data := document.Lookup("data").Binary()
			contents[id].add(number(document, "n"), data)
		}},
		{"fs.files", bson.D{{Key: "metadata.event", Value: 0}}, func(id string, document bson.Raw) {
			if _, err := document.LookupErr("metadata", "ended_at"); err == nil {
				s.Tombstones[id] = true
				return
			}
			chunkSizes[id] = number(document, "chunkSize")
			s.Files[id] = StoredFile{text(document, "metadata", "owner"), text(document, "filename"),
				text(document, "metadata", "sha256"), number(document, "length")}
			if key := text(document, "metadata", "idempotency_key"); key != "" {
				s.keys[id] = key
			}
		}},
		{"catalogue", nil, func(id string, document bson.Raw) {
			s.Entries[id] = StoredFile{text(document, "owner"), text(document, "name"), text(document, "sha256"),
				number(document, "size")}
		}},
		{"uploads", nil, func(id string, _ bson.Raw) { s.Notes[id] = true }},
		{"deletions", nil, func(id string, _ bson.Raw) { s.Deletions[id] = true }},
		// The _id of a document in the journal begins with the ID of its upload.
		{"uploads.journal", bson.D{{Key: "_id", Value: 1}}, func(id string, _ bson.Raw) { s.Journal[id[:min(len(id), idLength)]]++ }},
	} {
		if err := each(ctx, db.Collection(c.collection), c.projection, c.add); err != nil {
			return s, fmt.Errorf("read %s: %w", c.collection, err)
		}
	}
	for id, file := range s.Files {
		c := contents[id]
		if c == nil {
			c = newContents()
		}
		s.corrupt[id] = c.violations(file, chunkSizes[id])
	}
	return s, nil
}

// idLength is the length of a UUID in text form.
const idLength = 36

// each calls do for each document of a collection.
func each(ctx context.Context, from *mongo.Collection, projection bson.D, do func(id string, document bson.Raw)) error {
	// Without a batch size, FerretDB sends all documents in one reply, which can be too large.
	opts := options.Find().SetBatchSize(10)
	if projection != nil {
		opts.SetProjection(projection)
	}
	cursor, err := from.Find(ctx, bson.D{}, opts)
	if err != nil {
		return err
	}
	defer cursor.Close(context.WithoutCancel(ctx)) // an error here does not affect the result
	for cursor.Next(ctx) {
		do(text(cursor.Current, "_id"), cursor.Current)
	}
	return cursor.Err()
}

// text returns a string in a document, or "" if the document has no such string.
func text(document bson.Raw, key ...string) string {
	s, _ := document.Lookup(key...).StringValueOK()
	return s
}

// number returns a number in a document, or -1 if the document has no such number.
func number(document bson.Raw, key ...string) int64 {
	n, ok := document.Lookup(key...).AsInt64OK()
	if !ok {
		return -1
	}
	return n
}

// contents computes the length and the digest of a file from its chunks, in any order.
type contents struct {
	sum        hash.Hash
	length     int64
	lengths    map[int64]int64  // the lengths of the chunks, by number
	early      map[int64][]byte // the chunks that follow a chunk that was not read yet
	next       int64            // the number of the next chunk for sum
	duplicates int              // how many chunks have the number of another chunk
}

func newContents() *contents {
	return &contents{sum: sha256.New(), lengths: map[int64]int64{}, early: map[int64][]byte{}}
}

// add adds the chunk with the number n.
func (c *contents) add(n int64, data []byte) {
	if _, ok := c.lengths[n]; ok {
		c.duplicates++
		return
	}
	c.lengths[n] = int64(len(data))
	c.length += int64(len(data))
	c.early[n] = slices.Clone(data)
	for {
		data, ok := c.early[c.next]
		if !ok {
			return
		}
		_, _ = c.sum.Write(data) // hash.Hash.Write never returns an error
		delete(c.early, c.next)
		c.next++
	}
}

// violations compares the chunks with the document of their file.
func (c *contents) violations(file StoredFile, chunkSize int64) []string {
	var found []string
	if digest := hex.EncodeToString(c.sum.Sum(nil)); c.length != file.Size || digest != file.SHA256 {
		found = append(found, fmt.Sprintf("the chunks have %d bytes with the digest %s, but the file has %d bytes with %s",
			c.length, digest, file.Size, file.SHA256))
	}
	if len(c.early) > 0 {
		found = append(found, fmt.Sprintf("chunk %d is missing, but later chunks exist", c.next))
	}
	if c.duplicates > 0 {
		found = append(found, fmt.Sprintf("%d chunks have the number of another chunk", c.duplicates))
	}
	for n, length := range c.lengths {
		if last := int64(len(c.lengths)) - 1; n < last && length != chunkSize {
			found = append(found, fmt.Sprintf("chunk %d has %d bytes, but the chunk size is %d", n, length, chunkSize))
		}
	}
	return found
}
