package content

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// burial is a deletion record (a document in the deletions collection) or a tombstone (a document in the
// deletions.tombstones collection).
type burial struct {
	ID       string    `bson:"_id"`
	BuriedAt time.Time `bson:"buried_at"`
}

// Bury marks the file with the given ID as deleted, so that Buried reports true for the file. The caller must then
// delete the file's catalog entry and call Delete. Until Delete succeeds, Graves returns the file's ID. Bury can be
// called repeatedly for the same file.
func (s *Store) Bury(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Insert the deletion record before the tombstone, because if a failure left only a tombstone, the file would be
	// hidden, but sweep would never delete its bytes.
	for _, c := range []*mongo.Collection{s.deletions, s.tombstones} {
		_, err := c.InsertOne(ctx, burial{id, time.Now().UTC()})
		if err != nil && !mongo.IsDuplicateKeyError(err) {
			return mongodb.Problem(err, "mark file "+id+" as deleted")
		}
	}
	return nil
}

// Buried reports whether the file with the given ID is marked as deleted. An event handler must call Buried, so that a
// late event does not add a deleted file to the catalog again.
func (s *Store) Buried(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := s.tombstones.CountDocuments(ctx, bson.D{{Key: "_id", Value: id}})
	return n > 0, mongodb.Problem(err, "look up the tombstone for file "+id)
}

// Graves returns up to limit IDs of files whose deletion began before the given time and is not complete. The IDs are
// in ascending order. The parameter after is the last ID of the previous page, or empty for the first page.
func (s *Store) Graves(ctx context.Context, before time.Time, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := s.deletions.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}, {Key: "buried_at", Value: bson.D{{Key: "$lt", Value: before.UTC()}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, mongodb.Problem(err, "find incomplete deletions")
	}
	var burials []burial
	if err := found.All(ctx, &burials); err != nil {
		return nil, mongodb.Problem(err, "read incomplete deletions")
	}
	ids := make([]string, len(burials))
	for i, b := range burials {
		ids[i] = b.ID
	}
	return ids, nil
}

// Unearth deletes all tombstones (marks of deleted files) that were created before the given time. It returns how many
// tombstones it deleted.
func (s *Store) Unearth(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.tombstones, "buried_at", before)
}
