// Package outbox keeps a note of each upload until the uploaded file has its catalog entry. The document that commits a
// file contains the file's event (see package content). While the note exists, the sweep function publishes this event
// at increasing intervals, until the record function has added the file to the catalog. The sweep function also uses
// the notes to find interrupted uploads.
package outbox

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// Note is a document in the uploads collection. It exists from the start of an upload until the catalog entry exists,
// or until the data of an upload that did not become a file is deleted.
type Note struct {
	// ID is the ID of the upload, which is also the ID of its file.
	ID    string `bson:"_id"`
	Owner string `bson:"owner"`
	// Length is the size of the file in bytes, or -1 if it is not known yet. Length is 0 for a temporary file.
	Length int64 `bson:"length"`
	// IsReserved reports whether the upload will have, has or had a reservation in its owner's usage (see package
	// content), or is already part of it.
	IsReserved bool `bson:"reserved,omitempty"`
	// ExpiresAt is the time when a resumable upload expires. It is nil for an upload in one request.
	ExpiresAt *time.Time `bson:"expires_at"`
	// Tus contains the properties that only a resumable upload has. It is nil for an upload in one request.
	Tus *Tus `bson:"tus,omitempty"`

	// DueAt is the time when the note becomes due. The sweep function visits the note when it has been due for
	// PENDING_GRACE.
	DueAt time.Time `bson:"due_at"`
	// IsStored reports whether the sweep function has found that the upload has become a file. If it is false, the
	// upload might have become a file nevertheless.
	IsStored bool `bson:"stored,omitempty"`
	// StoredAt is the time when the file was stored. It is nil if IsStored is false.
	StoredAt *time.Time `bson:"stored_at,omitempty"`
	// Published is the number of times that the sweep function has published the file's event.
	Published int `bson:"published,omitempty"`
	// Previous reports whether the previous version of Strongroom created the note.
	Previous bool `bson:"previous,omitempty"`
}

// Tus contains the properties of a resumable upload.
type Tus struct {
	Name        string `bson:"name"`
	ContentType string `bson:"content_type"`
	// Metadata is the Upload-Metadata header of the request that created the upload.
	Metadata string `bson:"metadata"`
	// SHA256 is the digest that the client has declared for the whole file, in hexadecimal. It is empty if the client
	// has declared none.
	SHA256 string `bson:"sha256,omitempty"`
}

// maxInterval is the longest interval between two publications of the same event by the sweep function.
const maxInterval = 24 * time.Hour

// Interval returns the time between publication n of an event by the sweep function and the next publication. The
// interval doubles with each publication, up to maxInterval. The first interval, from the commit of the file to
// publication 1, is Interval(0, first).
func Interval(n int, first time.Duration) time.Duration {
	for ; n > 0 && first < maxInterval; n-- {
		first *= 2
	}
	return min(first, maxInterval)
}

// Notes provides access to the notes in a MongoDB database. It is safe for concurrent use.
type Notes struct{ notes *mongo.Collection }

// New returns the Notes in db.
func New(db *mongo.Database) *Notes { return &Notes{db.Collection("uploads")} }

// EnsureIndexes creates the indexes that Due, Waiting and Owned need, unless they exist.
func (n *Notes) EnsureIndexes(ctx context.Context) error {
	return mongodb.EnsureIndexes(ctx,
		mongodb.Index{On: n.notes, Fields: []string{"owner"}},
		mongodb.Index{On: n.notes, Fields: []string{"stored", "due_at"}},
		mongodb.Index{On: n.notes, Fields: []string{"stored_at"}})
}

// Add inserts a note. If a note with the same ID already exists, the error wraps mongodb.ErrExists.
func (n *Notes) Add(ctx context.Context, note Note) error {
	return mongodb.Insert(ctx, n.notes, mongodb.CallTimeout, note, "insert the note of upload "+note.ID)
}

// Note returns the note with the given ID, or nil if the note does not exist.
func (n *Notes) Note(ctx context.Context, id string) (*Note, error) {
	return mongodb.Read[Note](ctx, n.notes, id)
}

// Postpone sets the due time of a note, if the note exists.
func (n *Notes) Postpone(ctx context.Context, id string, until time.Time) error {
	return n.set(ctx, id, bson.D{{Key: "due_at", Value: until.UTC()}})
}

// Reserved sets IsReserved in the notes with the given IDs, if they exist.
func (n *Notes) Reserved(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	return mongodb.UpdateAll(ctx, n.notes, mongodb.IDs(ids), bson.D{{Key: "$set", Value: bson.D{{Key: "reserved", Value: true}}}})
}

// End marks a resumable upload as expired and due at the given time.
func (n *Notes) End(ctx context.Context, id string, at time.Time) error {
	return n.set(ctx, id, bson.D{{Key: "expires_at", Value: at.UTC()}, {Key: "due_at", Value: at.UTC()}})
}

// Stored records that the upload has become a file. It sets the time when the file was stored, the number of
// publications, and the due time of the next publication.
func (n *Notes) Stored(ctx context.Context, id string, at time.Time, published int, due time.Time) error {
	return n.set(ctx, id, bson.D{{Key: "stored", Value: true}, {Key: "stored_at", Value: at.UTC()}, {Key: "published", Value: published}, {Key: "due_at", Value: due.UTC()}})
}

func (n *Notes) set(ctx context.Context, id string, fields bson.D) error {
	return mongodb.Update(ctx, n.notes, mongodb.CallTimeout, mongodb.ID(id), bson.D{{Key: "$set", Value: fields}})
}

// Remove deletes the note with the given ID, if the note exists.
func (n *Notes) Remove(ctx context.Context, id string) error {
	_, err := mongodb.Remove(ctx, n.notes, mongodb.ID(id))
	return err
}

// Due returns up to limit notes whose due time is not after the given time, sorted by the due time. It returns only
// notes with the given value of IsStored.
func (n *Notes) Due(ctx context.Context, stored bool, at time.Time, limit int) ([]Note, error) {
	filter := bson.D{{Key: "stored", Value: nil}, {Key: "due_at", Value: bson.D{{Key: "$lte", Value: at.UTC()}}}}
	if stored {
		filter[0].Value = true
	}
	return mongodb.List[Note](ctx, n.notes, filter, "due_at", limit)
}

// epoch is the due time of the notes that Adopt changes. It is earlier than every other time in a note.
var epoch = time.Unix(0, 0).UTC()

// maxWaiting is the highest number that Waiting returns. It limits the duration of the query.
const maxWaiting = 1_000_000

// Waiting returns the number of stored files that the sweep function has found without a catalog entry, and the time
// when the first of these files was stored. It counts up to maxWaiting files.
func (n *Notes) Waiting(ctx context.Context) (files int64, since time.Time, err error) {
	stored := bson.D{{Key: "stored_at", Value: bson.D{{Key: "$gt", Value: epoch}}}}
	first, err := mongodb.List[Note](ctx, n.notes, stored, "stored_at", 1)
	if err != nil || len(first) == 0 {
		return 0, time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	files, err = n.notes.CountDocuments(ctx, stored, options.Count().SetLimit(maxWaiting))
	return files, first[0].StoredAt.UTC(), mongodb.Problem(err, "count the files that wait for a catalog entry")
}

// Owned returns the notes of the owner whose IsStored is false.
func (n *Notes) Owned(ctx context.Context, owner string) ([]Note, error) {
	return mongodb.List[Note](ctx, n.notes, bson.D{{Key: "owner", Value: owner}, {Key: "stored", Value: nil}}, "_id", 0)
}

// Existing returns those of the given IDs that have a note.
func (n *Notes) Existing(ctx context.Context, ids []string) ([]string, error) {
	return mongodb.Existing(ctx, n.notes, ids)
}

// Adopt makes the notes of the previous version due, because they have no due time. Functions of the previous version
// can still create notes while an upgrade is in progress.
func (n *Notes) Adopt(ctx context.Context) error {
	return mongodb.UpdateAll(ctx, n.notes, bson.D{{Key: "stored", Value: nil}, {Key: "due_at", Value: nil}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "due_at", Value: epoch}, {Key: "previous", Value: true}}}})
}
