// Package content keeps the bytes of files in MongoDB, in GridFS layout (bucket "fs"), so that every driver's GridFS
// can read them.
//
// It has a writer of its own, because the driver's corrupts concurrent uploads, buffers 16 MiB a stream, sends one
// batch at a time and leaves its chunks behind when it is cancelled. A file exists once its document in fs.files
// does: that single insert is the commit point. The document carries the event that tells of the file, so that the
// event can not be lost between the commit and the broker.
//
// Four small collections beside it tell what is not finished, or must not happen twice. They are changed by inserts and
// deletes of single documents alone, which every server does atomically:
//
//   - uploads has a document for every file from before its first chunk until its event is confirmed. What a killed
//     function left behind, bytes or an event, is found there.
//   - uploads.claims has the first answer to each Idempotency-Key.
//   - deletions has a document for every deletion that has begun and not ended.
//   - deletions.tombstones remembers what was deleted, for events that come late.
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

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// chunkSize of the files that are written, in bytes. One chunk is one insert.
	chunkSize = 1 << 20
	// streamInserts bounds the inserts in flight of one Put. A chunk in flight takes three times its size, all of it in
	// the driver: as BSON, in a message, and in a copy of that message. With the chunk that fills, that makes seven
	// chunks a stream at most. One in flight more would be no faster: two keep SHA-256 and the connection busy.
	streamInserts = 2
	// storeInserts bounds the inserts in flight of all Puts together, and with them the memory of many streams at
	// once. It is less than the connections of the pool, so that reads get through.
	storeInserts = 8

	// chunkTimeout bounds writing or reading one chunk, callTimeout any other call, discardTimeout the deletion of all
	// chunks of a file.
	chunkTimeout   = 10 * time.Second
	callTimeout    = 5 * time.Second
	discardTimeout = 20 * time.Second
)

// Store keeps files. It may be used by many goroutines at once.
type Store struct {
	db         *mongo.Database
	files      *mongo.Collection
	chunks     *mongo.Collection
	uploads    *mongo.Collection
	journal    *mongo.Collection
	claims     *mongo.Collection
	deletions  *mongo.Collection
	tombstones *mongo.Collection
	buffers    sync.Pool     // of *buffer
	slots      chan struct{} // one for each insert in flight
}

// Open returns the store in the database that uri names. It makes no connection: a server that is away shows in the
// first call.
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
	}, nil
}

// Close ends the store's connections.
func (s *Store) Close() error { return mongodb.Close(s.db) }

// EnsureIndexes makes the unique index of GridFS on (files_id, n), and those for the sums of an owner's bytes and for
// what is deleted by age. It may run any number of times, also side by side.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// One by one: FerretDB does not take several of which some exist.
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
			return mongodb.Problem(err, "make an index of "+index.of.Name())
		}
	}
	return nil
}

// File is a file without its bytes.
type File struct {
	// ID is a UUIDv7, made by Put.
	ID string
	// Owner is the user's id.
	Owner string
	Name  string
	// ContentType is the media type with its parameters.
	ContentType string
	// SHA256 is the digest of the bytes in lower-case hex.
	SHA256 string
	// Size in bytes.
	Size int64
	// Key is the one under which the upload of the file may be claimed (see Claim), or empty.
	Key string
	// StoredAt is when the file was committed, in UTC with a resolution of one millisecond.
	StoredAt time.Time

	chunkSize int32
}

// fileDocument is a document of fs.files.
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
	// Event is the CloudEvent that tells of the file, as JSON.
	Event string `bson:"event"`
	Key   string `bson:"idempotency_key,omitempty"`
}

// Get returns the file with the given id, or problem.NotFound.
func (s *Store) Get(ctx context.Context, id string) (File, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var doc fileDocument
	err := s.files.FindOne(ctx, bson.D{{Key: "_id", Value: id}}, options.FindOne().SetProjection(bson.D{{Key: "metadata.event", Value: 0}})).Decode(&doc)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return File{}, problem.NotFound.With("there is no such file")
	}
	if err != nil {
		return File{}, mongodb.Problem(err, "read the document of file "+id)
	}
	return doc.file()
}

// IDs returns the ids of at most limit files, in order, beginning after the id after.
func (s *Store) IDs(ctx context.Context, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := bson.D{{Key: "_id", Value: 1}}
	found, err := s.files.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}},
		options.Find().SetProjection(id).SetSort(id).SetLimit(int64(limit)))
	if err != nil {
		return nil, mongodb.Problem(err, "find files")
	}
	var docs []fileDocument
	if err := found.All(ctx, &docs); err != nil {
		return nil, mongodb.Problem(err, "read the ids of files")
	}
	ids := make([]string, len(docs))
	for i, doc := range docs {
		ids[i] = doc.ID
	}
	return ids, nil
}

// file returns what doc says.
func (doc fileDocument) file() (File, error) {
	if doc.Length < 0 || doc.ChunkSize <= 0 {
		return File{}, fmt.Errorf("the document of file %s has length %d and chunk size %d", doc.ID, doc.Length, doc.ChunkSize)
	}
	return File{
		ID:          doc.ID,
		Owner:       doc.Metadata.Owner,
		Name:        doc.Filename,
		ContentType: doc.Metadata.ContentType,
		SHA256:      doc.Metadata.SHA256,
		Size:        doc.Length,
		StoredAt:    doc.UploadDate.UTC(),
		Key:         doc.Metadata.Key,
		chunkSize:   doc.ChunkSize,
	}, nil
}

// document returns the document of f, which carries event.
func document(f File, event []byte) fileDocument {
	return fileDocument{
		ID:         f.ID,
		Length:     f.Size,
		ChunkSize:  f.chunkSize,
		UploadDate: f.StoredAt,
		Filename:   f.Name,
		Metadata:   metadata{f.Owner, f.ContentType, f.SHA256, string(event), f.Key},
	}
}

// Event returns the event that the document of the file with the given id carries, or problem.NotFound.
func (s *Store) Event(ctx context.Context, id string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var doc struct {
		Metadata metadata `bson:"metadata"`
	}
	err := s.files.FindOne(ctx, bson.D{{Key: "_id", Value: id}}, options.FindOne().SetProjection(bson.D{{Key: "metadata", Value: 1}})).Decode(&doc)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, problem.NotFound.With("there is no such file")
	}
	return []byte(doc.Metadata.Event), mongodb.Problem(err, "read the event of file "+id)
}

// Delete removes the file with the given id and what is noted of its upload and its deletion; one that is not there is
// no error. The document goes first: a file without a document does not exist, a document without its chunks would be a
// broken file. The notes go last: until then sweep can find what is left.
func (s *Store) Delete(ctx context.Context, id string) error {
	if err := s.remove(ctx, s.files, id); err != nil {
		return err
	}
	if err := s.deleteUpload(ctx, id); err != nil {
		return err
	}
	return s.remove(ctx, s.deletions, id)
}

// remove deletes the document with the given id from a collection; one that is not there is no error.
func (s *Store) remove(ctx context.Context, from *mongo.Collection, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := from.DeleteOne(ctx, bson.D{{Key: "_id", Value: id}})
	return mongodb.Problem(err, "delete "+id+" from "+from.Name())
}

// discard deletes the chunks of the file with the given id.
func (s *Store) discard(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	_, err := s.chunks.DeleteMany(ctx, bson.D{{Key: "files_id", Value: id}})
	return mongodb.Problem(err, "delete the chunks of file "+id)
}
