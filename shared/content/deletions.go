package content

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// deletion is a deletion record (a document in the deletions collection) or a tombstone (a document in the
// deletions.tombstones collection).
type deletion struct {
	ID        string    `bson:"_id"`
	DeletedAt time.Time `bson:"buried_at"`
}

// MarkDeleted marks the file with the given ID as deleted, so that IsDeleted reports true for the file. The caller must
// then delete the file's catalog entry and call Delete. Until Delete succeeds, PendingDeletions returns the file's ID.
// MarkDeleted can be called repeatedly for the same file.
func (s *Store) MarkDeleted(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Insert the deletion record before the tombstone, because if a failure left only a tombstone, the file would be
	// hidden, but the sweep function would never delete its bytes.
	for _, c := range []*mongo.Collection{s.deletions, s.tombstones} {
		_, err := c.InsertOne(ctx, deletion{id, s.now().UTC()})
		if err != nil && !mongo.IsDuplicateKeyError(err) {
			return mongodb.Problem(err, "mark file "+id+" as deleted")
		}
	}
	return nil
}

// IsDeleted reports whether the file with the given ID is marked as deleted. An event handler must call IsDeleted, so
// that a late event does not add a deleted file to the catalog again.
func (s *Store) IsDeleted(ctx context.Context, id string) (bool, error) {
	tombstone, err := read[deletion](ctx, s.tombstones, id)
	return tombstone != nil, err
}

// PendingDeletions returns up to limit IDs of files whose deletion began before the given time and is not complete. The
// IDs are in ascending order. The parameter after is the last ID of the previous page, or empty for the first page.
func (s *Store) PendingDeletions(ctx context.Context, before time.Time, after string, limit int) ([]string, error) {
	pending, err := page[deletion](ctx, s.deletions, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}},
		{Key: "buried_at", Value: bson.D{{Key: "$lt", Value: before.UTC()}}}}, limit)
	ids := make([]string, len(pending))
	for i, d := range pending {
		ids[i] = d.ID
	}
	return ids, err
}

// ForgetDeletions deletes all tombstones (markers for deleted files) that were created before the given time. It
// returns how many tombstones it deleted.
func (s *Store) ForgetDeletions(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.tombstones, "buried_at", before)
}
