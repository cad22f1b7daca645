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

	"golang.org/x/sync/singleflight"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
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
)

// Store provides access to the files in a MongoDB database. It is safe for concurrent use. If concurrent calls
// conflict, the write of a single document determines which call succeeds. All supported servers run such a write
// atomically.
type Store struct {
	db *mongo.Database
	// Notes contains a note of each upload that has no catalog entry yet.
	Notes *outbox.Notes
	// files contains a document for each file, including the event that announces the file. One insert stores both the
	// file's metadata and the event, so that the event is not lost if the process is killed. For an upload that must
	// not become a file, and for a deleted file, the collection contains a tombstone with the same _id. The first
	// insert of either document decides whether the upload becomes a file, because the insert of the other document
	// then fails.
	files   *mongo.Collection
	chunks  *mongo.Collection
	journal *mongo.Collection // the progress of each resumable upload
	claims  *mongo.Collection // the uploads that have claimed an idempotency key
	sweeps  *mongo.Collection // the latest sweep
	// deletions contains a record for each incomplete deletion.
	deletions *mongo.Collection
	usage     *mongodb.Registers[usage] // the storage usage of each user
	counts    singleflight.Group        // the counts of files in progress, by user
	// Limits limits the files of each user. Set it before the first upload.
	Limits  Limits
	buffers sync.Pool     // contains *buffer values
	slots   chan struct{} // a semaphore that holds one value for each insert in flight
	now     func() time.Time
}

// Open returns a Store for the database that uri names. It does not wait for a connection, so it succeeds even if
// the server is unreachable.
func Open(uri string) (*Store, error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return nil, err
	}
	return &Store{
		db:        db,
		Notes:     outbox.New(db),
		files:     db.Collection("fs.files"),
		chunks:    db.Collection("fs.chunks", options.Collection().SetRegistry(lending())),
		journal:   db.Collection("uploads.journal"),
		claims:    db.Collection("uploads.claims"),
		sweeps:    db.Collection("sweeps"),
		deletions: db.Collection("deletions"),
		usage:     mongodb.NewRegisters[usage](db.Collection("usage")),
		buffers:   sync.Pool{New: func() any { return new(buffer) }},
		slots:     make(chan struct{}, storeInserts),
		now:       time.Now,
	}, nil
}

// Database returns the database, so that other packages can use the connections of the Store. Close closes them.
func (s *Store) Database() *mongo.Database { return s.db }

// Close closes the connections to MongoDB.
func (s *Store) Close() error { return mongodb.Close(s.db) }

// EnsureIndexes creates the indexes that GridFS, the usage, the notes, PendingDeletions and ForgetClaims need. It can
// be called repeatedly and concurrently, because it leaves existing indexes unchanged.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	if err := s.Notes.EnsureIndexes(ctx); err != nil {
		return err
	}
	return mongodb.EnsureIndexes(ctx,
		mongodb.Index{On: s.chunks, Fields: []string{"files_id", "n"}, Unique: true},
		mongodb.Index{On: s.files, Fields: []string{"metadata.owner"}},
		mongodb.Index{On: s.claims, Fields: []string{"claimed_at"}},
		mongodb.Index{On: s.deletions, Fields: []string{"buried_at"}},
		mongodb.Index{On: s.deletions, Fields: []string{"owner"}})
}

// File contains the metadata of a stored file.
type File struct {
	file.Info
	// Key is a value derived from the Idempotency-Key header. Claim uses this value to detect a repeated upload.
	// Key is empty if the request had no such header.
	Key string
	// Event is the CloudEvent that announces the file, encoded as JSON.
	Event string

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
	Owner       string `bson:"owner,omitempty"`
	ContentType string `bson:"content_type,omitempty"`
	SHA256      string `bson:"sha256,omitempty"`
	Event       string `bson:"event,omitempty"`
	Key         string `bson:"idempotency_key,omitempty"`
	// EndedAt is set only in a tombstone. It is the time when the upload was ended or the file was deleted.
	EndedAt *time.Time `bson:"ended_at,omitempty"`
}

// tombstone returns the document that takes the place of a file's document if the file must not exist. The tombstone is
// never deleted. Otherwise, a process that was suspended for a long time could still insert the file's document.
func (s *Store) tombstone(id string) fileDocument {
	now := s.now().UTC()
	return fileDocument{ID: id, ChunkSize: chunkSize, UploadDate: now, Metadata: metadata{EndedAt: &now}}
}

// live reports whether doc is the document of a file. It returns false for nil and for a tombstone.
func (doc *fileDocument) live() bool { return doc != nil && doc.Metadata.EndedAt == nil }

var errNoFile = problem.NotFound.With("there is no such file")

// Get returns the file with the given ID. If the file does not exist, the error wraps problem.NotFound.
func (s *Store) Get(ctx context.Context, id string) (File, error) {
	doc, err := s.document(ctx, id)
	switch {
	case err != nil:
		return File{}, err
	case !doc.live():
		return File{}, errNoFile
	}
	return doc.file()
}

// document returns the document of a file, or the tombstone, or nil if neither exists.
func (s *Store) document(ctx context.Context, id string) (*fileDocument, error) {
	return mongodb.Read[fileDocument](ctx, s.files, id)
}

// IDs reads a page of up to limit documents. It returns the IDs of the files among them, in ascending order, and the
// value of "after" for the next page. For the first page, pass an empty string. After the last page, next is empty.
func (s *Store) IDs(ctx context.Context, after string, limit int) (ids []string, next string, err error) {
	docs, err := mongodb.List[fileDocument](ctx, s.files, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}}, "_id", limit,
		options.Find().SetProjection(bson.D{{Key: "metadata.ended_at", Value: 1}}))
	for _, doc := range docs {
		if next = doc.ID; doc.live() {
			ids = append(ids, doc.ID)
		}
	}
	return ids, next, err
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
		Event:     doc.Metadata.Event,
		chunkSize: doc.ChunkSize,
	}, nil
}

// document converts f to an fs.files document.
func document(f File) fileDocument {
	return fileDocument{
		ID:         f.ID,
		Length:     f.Size,
		ChunkSize:  f.chunkSize,
		UploadDate: f.StoredAt,
		Filename:   f.Name,
		Metadata:   metadata{Owner: f.Owner, ContentType: f.ContentType, SHA256: f.SHA256, Event: f.Event, Key: f.Key},
	}
}

// commit inserts the document of f, which makes f a file. If the document already exists, commit returns nil. If a
// tombstone exists, the error is errEnded. If the error wraps mongodb.ErrUnknown, f might be a file.
func (s *Store) commit(ctx context.Context, f File) error {
	insert := func() error {
		return mongodb.Insert(ctx, s.files, mongodb.CallTimeout, document(f), "commit file "+f.ID)
	}
	err := insert()
	if errors.Is(err, mongodb.ErrUnknown) { // a retry cannot create a second file, because the _id is unique
		if again := insert(); again == nil || errors.Is(again, mongodb.ErrExists) {
			err = again // any other error does not reveal whether the first insert has been done
		}
	}
	if !errors.Is(err, mongodb.ErrExists) {
		return err
	}
	doc, err := s.document(context.WithoutCancel(ctx), f.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", mongodb.ErrUnknown, err)
	}
	if !doc.live() {
		return errEnded
	}
	return nil
}

// errEnded reports that an upload cannot become a file, because another process has ended the upload.
var errEnded = problem.Unavailable.With("another process has ended the upload: send the file again")

// end inserts the tombstone of an upload, so that the upload cannot become a file. If the upload is already a file, the
// error wraps problem.Conflict. If end has been called before for the upload, it does nothing.
func (s *Store) end(ctx context.Context, id string) error {
	err := mongodb.Insert(ctx, s.files, mongodb.CallTimeout, s.tombstone(id), "end upload "+id)
	if !errors.Is(err, mongodb.ErrExists) {
		return err
	}
	if doc, err := s.document(ctx, id); err != nil || !doc.live() {
		return err
	}
	return problem.Conflict.With("the upload is complete: delete the file /files/%s instead", id)
}

// purge deletes the chunks, the journal, the reservation and the note of an upload that is not a file, or of a deleted
// file. owner is empty if no note and no deletion record names the owner.
func (s *Store) purge(ctx context.Context, owner, id string) error {
	if err := s.purgeBytes(ctx, id); err != nil {
		return err
	}
	if owner != "" {
		if err := s.release(ctx, owner, id); err != nil {
			return err
		}
	}
	// Delete the note last, so that the sweep function can find an interrupted deletion and complete it.
	return s.Notes.Remove(ctx, id)
}

// purgeBytes is like purge, but it keeps the note.
func (s *Store) purgeBytes(ctx context.Context, id string) error {
	if _, err := mongodb.RemoveAll(ctx, s.chunks, bson.D{{Key: "files_id", Value: id}}); err != nil {
		return fmt.Errorf("delete the chunks of file %s: %w", id, err)
	}
	return s.DropJournal(ctx, id)
}
