package content

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// deletion is the document type of two collections. The deletions collection has a document for each incomplete
// deletion. The deletions.tombstones collection has a document for each deleted file.
type deletion struct {
	ID        string    `bson:"_id"`
	DeletedAt time.Time `bson:"buried_at"`
}

// MarkDeleted marks a file as deleted. The caller must then delete the file's catalog entry and call Delete.
// MarkDeleted can be called repeatedly.
func (s *Store) MarkDeleted(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Insert the deletion record before the tombstone, which marks the file as deleted. If only the tombstone
	// existed, the file would be hidden, but the sweep function would never delete its bytes.
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

// PendingDeletions lists the files whose deletion began before the given time and is not complete yet. To get the
// next page, pass the last ID of the previous page as "after". For the first page, pass an empty string.
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
// returns the number of deleted tombstones.
func (s *Store) ForgetDeletions(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.tombstones, "buried_at", before)
}
