package content

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// burial is a document of deletions and of deletions.tombstones.
type burial struct {
	ID       string    `bson:"_id"`
	BuriedAt time.Time `bson:"buried_at"`
}

// Bury begins the deletion of the file with the given id: from now on it is Buried. What follows is to delete its
// catalogue entry, and then to call Delete; Graves has what was not brought to its end. A file may be buried again.
func (s *Store) Bury(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The note of the work first: a tombstone without it would hide bytes for ever.
	for _, c := range []*mongo.Collection{s.deletions, s.tombstones} {
		_, err := c.InsertOne(ctx, burial{id, time.Now().UTC()})
		if err != nil && !mongo.IsDuplicateKeyError(err) {
			return mongodb.Problem(err, "bury file "+id)
		}
	}
	return nil
}

// Buried tells whether the file with the given id was deleted. Events of it that come late are not to be followed.
func (s *Store) Buried(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := s.tombstones.CountDocuments(ctx, bson.D{{Key: "_id", Value: id}})
	return n > 0, mongodb.Problem(err, "look for the tombstone of file "+id)
}

// Graves returns the ids of at most limit files whose deletion began before the given time and has not ended, beginning
// after the id after.
func (s *Store) Graves(ctx context.Context, before time.Time, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := s.deletions.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}, {Key: "buried_at", Value: bson.D{{Key: "$lt", Value: before.UTC()}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, mongodb.Problem(err, "find unfinished deletions")
	}
	var burials []burial
	if err := found.All(ctx, &burials); err != nil {
		return nil, mongodb.Problem(err, "read unfinished deletions")
	}
	ids := make([]string, len(burials))
	for i, b := range burials {
		ids[i] = b.ID
	}
	return ids, nil
}

// Unearth deletes the tombstones of files that were buried before the given time, and returns their number.
func (s *Store) Unearth(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.tombstones, "buried_at", before)
}
