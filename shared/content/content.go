// Package content keeps the bytes of files in MongoDB, in GridFS layout (bucket "fs"), so that every driver's GridFS
// can read them.
//
// It has a writer of its own, because the driver's corrupts concurrent uploads, buffers 16 MiB a stream, sends one
// batch at a time and leaves its chunks behind when it is cancelled. A file exists once its document in fs.files
// does: that single insert is the commit point. The document carries the event that tells of the file, so that the
// event can not be lost between the commit and the broker.
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
	// streamInserts bounds the inserts in flight of one Put. A chunk in flight takes three times its size (here, as
	// BSON in the driver, in the driver's message), which with the chunk that fills makes ten chunks a stream at most.
	streamInserts = 3
	// storeInserts bounds the inserts in flight of all Puts together, and with them the memory of many streams at
	// once. It is less than the connections of the pool, so that reads get through.
	storeInserts = 8

	// chunkTimeout bounds writing or reading one chunk, callTimeout any other call, discardTimeout the deletion of all
	// chunks of a file.
	chunkTimeout   = 10 * time.Second
	callTimeout    = 5 * time.Second
	discardTimeout = 20 * time.Second
)

// The states of a file's event, in the metadata of its document.
const (
	statePending   = "pending"
	statePublished = "published"
)

// Store keeps files. It may be used by many goroutines at once.
type Store struct {
	db      *mongo.Database
	files   *mongo.Collection
	chunks  *mongo.Collection
	buffers sync.Pool     // of *buffer
	slots   chan struct{} // one for each insert in flight
}

// Open returns the store in the database that uri names. It makes no connection: a server that is away shows in the
// first call.
func Open(uri string) (*Store, error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return nil, err
	}
	return &Store{
		db:      db,
		files:   db.Collection("fs.files"),
		chunks:  db.Collection("fs.chunks"),
		buffers: sync.Pool{New: func() any { return newBuffer() }},
		slots:   make(chan struct{}, storeInserts),
	}, nil
}

// Close ends the store's connections.
func (s *Store) Close() error { return mongodb.Close(s.db) }

// EnsureIndexes makes the unique index of GridFS on (files_id, n). It may run any number of times, also side by side.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := s.chunks.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys:    bson.D{{Key: "files_id", Value: 1}, {Key: "n", Value: 1}},
		Options: options.Index().SetUnique(true),
	})
	return mongodb.Problem(err, "make the index of fs.chunks")
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
	// State is pending until the event is known to have reached the broker, then published.
	State string `bson:"state"`
	// Event is the CloudEvent that tells of the file, as JSON.
	Event string `bson:"event"`
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
	if doc.Length < 0 || doc.ChunkSize <= 0 {
		return File{}, fmt.Errorf("the document of file %s has length %d and chunk size %d", id, doc.Length, doc.ChunkSize)
	}
	return File{
		ID:          doc.ID,
		Owner:       doc.Metadata.Owner,
		Name:        doc.Filename,
		ContentType: doc.Metadata.ContentType,
		SHA256:      doc.Metadata.SHA256,
		Size:        doc.Length,
		StoredAt:    doc.UploadDate.UTC(),
		chunkSize:   doc.ChunkSize,
	}, nil
}

// MarkPublished notes that the event of the file with the given id has reached the broker.
func (s *Store) MarkPublished(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.files.UpdateOne(ctx, bson.D{{Key: "_id", Value: id}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "metadata.state", Value: statePublished}}}})
	return mongodb.Problem(err, "mark the event of file "+id+" as published")
}

// Delete removes the file with the given id; one that is not there is no error. The document goes first: a file
// without a document does not exist, a document without its chunks would be a broken file.
func (s *Store) Delete(ctx context.Context, id string) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.files.DeleteOne(call, bson.D{{Key: "_id", Value: id}}); err != nil {
		return mongodb.Problem(err, "delete the document of file "+id)
	}
	return s.discard(ctx, id)
}

// discard deletes the chunks of the file with the given id.
func (s *Store) discard(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	_, err := s.chunks.DeleteMany(ctx, bson.D{{Key: "files_id", Value: id}})
	return mongodb.Problem(err, "delete the chunks of file "+id)
}
