// Package content stores the bytes of files in MongoDB. It uses the GridFS layout and the bucket "fs", so that the
// GridFS implementation of every driver can read the files.
//
// The package has its own GridFS writer, because the Go driver's writer corrupts concurrent uploads, buffers 16 MiB per
// stream, sends only one batch at a time, and leaves its chunks in the database if an upload is canceled.
//
// A file exists if it has a document in the fs.files collection. Inserting this document commits an upload. The
// document also contains the file's event, so that the event is not lost if the function is killed between the commit
// and the publication of the event.
//
// The package makes each decision, such as which of two concurrent requests succeeds, by inserting or deleting a single
// document, because all supported servers perform these operations atomically. Five small collections record
// unfinished work and prevent duplicate work:
//
//   - uploads contains an upload record for each upload in progress and for each file whose event the broker has not
//     confirmed yet. An upload record is inserted before the first chunk. If a function is killed during an upload, the
//     sweep function uses the upload record to find the unfinished work.
//   - uploads.journal contains the progress of each resumable upload.
//   - uploads.claims contains the first file that was stored for each Idempotency-Key.
//   - deletions contains a deletion record for each incomplete deletion.
//   - deletions.tombstones contains a tombstone for each deleted file, so that a late event does not add the file to
//     the catalog again.
package content

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// chunkSize is the size of a new file's chunks, in bytes. Only a file's last chunk can be shorter. Each insert
	// writes one chunk, so chunkSize also limits the number of file bytes per insert.
	chunkSize = 1 << 20
	// streamInserts is the maximum number of chunks that one upload inserts at the same time. During an insert, the
	// driver holds three copies of the chunk: the BSON document, the wire message and a copy of that message. Two
	// concurrent inserts and the buffer that writeChunks fills in the meantime therefore need at most the memory of
	// seven chunks. A higher limit would not speed up an upload, because two inserts already keep the SHA-256
	// computation and the connection busy.
	streamInserts = 2
	// storeInserts is the maximum number of concurrent chunk inserts for all uploads to a Store. It limits the memory
	// that concurrent uploads use. It is lower than the connection pool size, so that connections remain available for
	// reads.
	storeInserts = 8

	// chunkTimeout is the time limit for a database call that reads or writes chunk bytes. deleteTimeout is the time
	// limit for a call that deletes many documents. callTimeout is the time limit for all other database calls, except
	// in EnsureIndexes.
	chunkTimeout  = 10 * time.Second
	callTimeout   = 5 * time.Second
	deleteTimeout = 20 * time.Second
)

// Store provides access to the files in a MongoDB database. It is safe for concurrent use.
type Store struct {
	db         *mongo.Database
	files      *mongo.Collection
	chunks     *mongo.Collection
	uploads    *mongo.Collection
	journal    *mongo.Collection
	claims     *mongo.Collection
	deletions  *mongo.Collection
	tombstones *mongo.Collection
	buffers    sync.Pool     // contains *buffer values
	slots      chan struct{} // a semaphore that holds one value for each insert in flight
	now        func() time.Time
}

// Open returns a Store for the database that uri names. Open does not wait for a connection. If the server is
// unreachable, Open succeeds, and the first call that uses the database fails.
func Open(uri string) (*Store, error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return nil, err
	}
	return &Store{
		db:         db,
		files:      db.Collection("fs.files"),
		chunks:     db.Collection("fs.chunks", options.Collection().SetRegistry(lending())),
		uploads:    db.Collection("uploads"),
		journal:    db.Collection("uploads.journal"),
		claims:     db.Collection("uploads.claims"),
		deletions:  db.Collection("deletions"),
		tombstones: db.Collection("deletions.tombstones"),
		buffers:    sync.Pool{New: func() any { return new(buffer) }},
		slots:      make(chan struct{}, storeInserts),
		now:        time.Now,
	}, nil
}

// Close closes the connections to MongoDB.
func (s *Store) Close() error { return mongodb.Close(s.db) }

// EnsureIndexes creates the unique index on (files_id, n) that GridFS requires, and the indexes that Usage,
// ForgetClaims and ForgetDeletions need. It can be called repeatedly and concurrently, because it leaves existing
// indexes unchanged.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Create each index with a separate command, because FerretDB returns an error for a command that creates several
	// indexes if some of them already exist.
	for _, index := range []struct {
		of     *mongo.Collection
		keys   []string
		unique bool
	}{
		{s.chunks, []string{"files_id", "n"}, true},
		{s.files, []string{"metadata.owner"}, false},
		{s.uploads, []string{"owner"}, false},
		{s.claims, []string{"claimed_at"}, false},
		{s.tombstones, []string{"buried_at"}, false},
	} {
		var keys bson.D
		for _, key := range index.keys {
			keys = append(keys, bson.E{Key: key, Value: 1})
		}
		model := mongo.IndexModel{Keys: keys, Options: options.Index().SetUnique(index.unique)}
		if _, err := index.of.Indexes().CreateOne(ctx, model); err != nil {
			return mongodb.Problem(err, "create an index on "+index.of.Name())
		}
	}
	return nil
}

// File contains the metadata of a stored file.
type File struct {
	file.Info
	// Key identifies an upload, so that Claim can detect a repeated upload. The upload function derives Key from the
	// Idempotency-Key header. Key is empty if the request did not have this header.
	Key string

	chunkSize int32
}

// fileDocument is a document in the fs.files collection. GridFS prescribes the names of all fields except those in
// Metadata.
type fileDocument struct {
	ID         string    `bson:"_id"`
	Length     int64     `bson:"length"`
	ChunkSize  int32     `bson:"chunkSize"`
	UploadDate time.Time `bson:"uploadDate"`
	Filename   string    `bson:"filename"`
	Metadata   metadata  `bson:"metadata"`
}

type metadata struct {
	Owner       string `bson:"owner"`
	ContentType string `bson:"content_type"`
	SHA256      string `bson:"sha256"`
	// Event is the file's CloudEvent, encoded as JSON.
	Event string `bson:"event"`
	Key   string `bson:"idempotency_key,omitempty"`
}

// Get returns the file with the given ID. If the file does not exist, the error wraps problem.NotFound.
func (s *Store) Get(ctx context.Context, id string) (File, error) {
	doc, err := read[fileDocument](ctx, s.files, id, options.FindOne().SetProjection(bson.D{{Key: "metadata.event", Value: 0}}))
	if err != nil {
		return File{}, err
	}
	if doc == nil {
		return File{}, errNoFile
	}
	return doc.file()
}

var errNoFile = problem.NotFound.With("there is no such file")

// IDs returns up to limit file IDs in ascending order. The parameter after is the last ID of the previous page, or
// empty for the first page.
func (s *Store) IDs(ctx context.Context, after string, limit int) ([]string, error) {
	docs, err := page[fileDocument](ctx, s.files, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}}, limit,
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	ids := make([]string, len(docs))
	for i, doc := range docs {
		ids[i] = doc.ID
	}
	return ids, err
}

// file converts doc to a File. It returns an error if the length or the chunk size in doc is invalid.
func (doc fileDocument) file() (File, error) {
	if doc.Length < 0 || doc.ChunkSize <= 0 {
		return File{}, fmt.Errorf("read the metadata of file %s: invalid length %d or chunk size %d", doc.ID, doc.Length, doc.ChunkSize)
	}
	return File{
		Info: file.Info{
			ID:          doc.ID,
			Owner:       doc.Metadata.Owner,
			Name:        doc.Filename,
			Size:        doc.Length,
			SHA256:      doc.Metadata.SHA256,
			ContentType: doc.Metadata.ContentType,
			StoredAt:    doc.UploadDate.UTC(),
		},
		Key:       doc.Metadata.Key,
		chunkSize: doc.ChunkSize,
	}, nil
}

// document returns the fs.files document for f. The parameter event is the JSON-encoded CloudEvent for f.
func document(f File, event []byte) fileDocument {
	return fileDocument{
		ID:         f.ID,
		Length:     f.Size,
		ChunkSize:  f.chunkSize,
		UploadDate: f.StoredAt,
		Filename:   f.Name,
		Metadata:   metadata{Owner: f.Owner, ContentType: f.ContentType, SHA256: f.SHA256, Event: string(event), Key: f.Key},
	}
}

// Event returns the JSON-encoded CloudEvent for the file with the given ID. If the file does not exist, the error wraps
// problem.NotFound.
func (s *Store) Event(ctx context.Context, id string) ([]byte, error) {
	doc, err := read[fileDocument](ctx, s.files, id, options.FindOne().SetProjection(bson.D{{Key: "metadata", Value: 1}}))
	if err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, errNoFile
	}
	return []byte(doc.Metadata.Event), nil
}

// Delete deletes the file with the given ID and the file's upload and deletion records. The tombstone, which marks the
// file as deleted, remains, because an event for the file can still arrive. If the file does not exist, Delete returns
// no error.
//
// Delete deletes the fs.files document first, because an interrupted deletion could otherwise leave a document without
// chunks, which would be a corrupt file. Chunks without a document are harmless. Delete deletes the two records last,
// because the sweep function needs them to complete an interrupted deletion.
func (s *Store) Delete(ctx context.Context, id string) error {
	if err := s.remove(ctx, s.files, id); err != nil {
		return err
	}
	if err := s.deleteUpload(ctx, id); err != nil {
		return err
	}
	return s.remove(ctx, s.deletions, id)
}

// read returns the document with the given ID from a collection, or nil if the document does not exist.
func read[T any](ctx context.Context, from *mongo.Collection, id any, opts ...options.Lister[options.FindOneOptions]) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var document T
	err := from.FindOne(ctx, bson.D{{Key: "_id", Value: id}}, opts...).Decode(&document)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	if err != nil {
		return nil, mongodb.Problem(err, fmt.Sprintf("read document %v from %s", id, from.Name()))
	}
	return &document, nil
}

// page searches a collection for documents that match filter, and returns up to limit of them, sorted by ID. If limit
// is 0, page returns all matching documents.
func page[T any](ctx context.Context, from *mongo.Collection, filter bson.D, limit int, opts ...options.Lister[options.FindOptions]) (documents []T, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts = append(opts, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	found, err := from.Find(ctx, filter, opts...)
	if err == nil {
		err = found.All(ctx, &documents)
	}
	return documents, mongodb.Problem(err, "list documents in "+from.Name())
}

// remove deletes the document with the given ID from a collection. If the document does not exist, remove returns no
// error.
func (s *Store) remove(ctx context.Context, from *mongo.Collection, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := from.DeleteOne(ctx, bson.D{{Key: "_id", Value: id}})
	return mongodb.Problem(err, "delete document "+id+" from "+from.Name())
}

// deleteChunks deletes all chunks of the file or upload with the given ID.
func (s *Store) deleteChunks(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	_, err := s.chunks.DeleteMany(ctx, bson.D{{Key: "files_id", Value: id}})
	return mongodb.Problem(err, "delete the chunks of file "+id)
}
