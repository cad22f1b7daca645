// Package content stores the bytes of files in MongoDB. It uses the GridFS layout, so that the GridFS
// implementation of every MongoDB driver can read the files.
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
	// chunkSize is the size of a new file's chunks, in bytes. Only a file's last chunk can be shorter.
	chunkSize = 1 << 20
	// streamInserts is the maximum number of chunks that one upload inserts at the same time. Two concurrent
	// inserts are enough to keep both the SHA-256 computation and the connection busy.
	streamInserts = 2
	// storeInserts is the maximum number of concurrent chunk inserts per Store. The limit reduces memory use. It
	// is lower than the connection pool size, so that some connections remain available for reads.
	storeInserts = 8

	// chunkTimeout is the time limit for a database call that reads or writes chunk bytes.
	chunkTimeout = 10 * time.Second
	// deleteTimeout is the time limit for a database call that deletes many documents.
	deleteTimeout = 20 * time.Second
	// callTimeout is the time limit for a database call that neither transfers chunk bytes nor deletes many
	// documents. EnsureIndexes uses a longer limit.
	callTimeout = 5 * time.Second
)

// Store provides access to the files in a MongoDB database. It is safe for concurrent use. If concurrent calls
// conflict, a single insert or deletion determines which call succeeds. All supported servers run such an operation
// atomically.
type Store struct {
	db *mongo.Database
	// files contains a document for each file, including the event that announces the file. One insert stores both the
	// file's metadata and the event, so that the event is not lost if the process is killed.
	files  *mongo.Collection
	chunks *mongo.Collection
	// uploads contains a record for each upload in progress and for each file whose event the broker has not confirmed.
	uploads *mongo.Collection
	journal *mongo.Collection // the progress of each resumable upload
	claims  *mongo.Collection // the first file that was stored for each idempotency key
	// deletions contains a record for each incomplete deletion.
	deletions *mongo.Collection
	// tombstones contains a marker for each deleted file, so that a late event does not add the file to the catalog
	// again.
	tombstones *mongo.Collection
	buffers    sync.Pool     // contains *buffer values
	slots      chan struct{} // a semaphore that holds one value for each insert in flight
	now        func() time.Time
}

// Open returns a Store for the database that uri names. It does not wait for a connection, so it succeeds even if
// the server is unreachable.
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

// EnsureIndexes creates the indexes that GridFS, Usage, ForgetClaims and ForgetDeletions need. It can be called
// repeatedly and concurrently, because it leaves existing indexes unchanged.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Create each index with a separate command, because FerretDB rejects a command with several indexes if some of
	// these indexes already exist.
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
	// Key is a value derived from the Idempotency-Key header. Claim uses this value to detect a repeated upload.
	// Key is empty if the request had no such header.
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

// IDs returns a page of file IDs, in ascending order. To get the next page, pass the last ID of the previous page as
// "after". For the first page, pass an empty string.
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

// document converts f and its JSON-encoded CloudEvent to an fs.files document.
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

// Delete deletes a file (if it exists), its upload record and its deletion record. It keeps the tombstone (the
// deletion marker), so that a late event does not restore the catalog entry.
func (s *Store) Delete(ctx context.Context, id string) error {
	// Delete the fs.files document before the chunks. If the deletion is interrupted, chunks without this document are
	// harmless, but a document without chunks would be a corrupt file.
	if err := s.remove(ctx, s.files, id); err != nil {
		return err
	}
	if err := s.deleteUpload(ctx, id); err != nil {
		return err
	}
	// Delete the deletion record last, because the sweep function needs it to complete an interrupted deletion.
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

// page returns the documents in a collection that match filter, sorted by ID. A limit of 0 means no limit.
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
