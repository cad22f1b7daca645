// Package catalog stores the file catalog in MongoDB. The record function adds an entry when it receives the event
// that announces a new file.
package catalog

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Entry is the catalog entry for a file. CataloguedAt is the time when the entry was created, in UTC. In the
// database, CataloguedAt has millisecond precision.
type Entry struct {
	file.Info    `bson:",inline"`
	CataloguedAt time.Time `bson:"catalogued_at"`
}

// document is the document of an entry in the database.
type document struct {
	Entry `bson:",inline"`
	Keys  keys `bson:",inline"`
}

// Store provides access to the catalog in a MongoDB database. It is safe for concurrent use.
type Store struct{ entries *mongo.Collection }

// New returns the Store in db.
func New(db *mongo.Database) *Store { return &Store{db.Collection("catalogue")} }

// EnsureIndexes creates the indexes that List and AddKeys need. It can be called repeatedly and concurrently, because
// it leaves existing indexes unchanged.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	return mongodb.EnsureIndexes(ctx,
		mongodb.Index{On: s.entries, Fields: []string{"owner", "-stored_at", "-_id"}},
		mongodb.Index{On: s.entries, Fields: []string{"owner", "name_key", "_id"}},
		mongodb.Index{On: s.entries, Fields: []string{"owner", "size", "_id"}},
		mongodb.Index{On: s.entries, Fields: []string{"owner", "words"}},
		mongodb.Index{On: s.entries, Fields: []string{"words"}})
}

// Insert adds e to the catalog and returns true. If an entry with the same ID already exists, Insert changes
// nothing and returns false without an error.
func (s *Store) Insert(ctx context.Context, e Entry) (inserted bool, err error) {
	err = mongodb.Insert(ctx, s.entries, mongodb.CallTimeout, document{e, keysOf(e.Name)}, "insert the catalog entry for file "+e.ID)
	if errors.Is(err, mongodb.ErrExists) { // the broker can deliver the same event twice
		return false, nil
	}
	return err == nil, err
}

// Delete deletes the entry with the given ID. If the entry does not exist, Delete returns no error.
func (s *Store) Delete(ctx context.Context, id string) error {
	_, err := mongodb.Remove(ctx, s.entries, mongodb.ID(id))
	return err
}

// Get returns the entry with the given ID. If the entry does not exist, the error wraps problem.NotFound.
func (s *Store) Get(ctx context.Context, id string) (Entry, error) {
	e, err := mongodb.Read[Entry](ctx, s.entries, id)
	if err != nil {
		return Entry{}, err
	}
	if e == nil {
		return Entry{}, problem.NotFound.With("there is no such file")
	}
	return *e, nil
}

// IDs returns up to limit entry IDs after the given ID, in ascending order.
func (s *Store) IDs(ctx context.Context, after string, limit int) ([]string, error) {
	return s.ids(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}}, limit)
}

// ids returns the IDs of up to limit entries that match filter, in ascending order. A limit of 0 means no limit.
func (s *Store) ids(ctx context.Context, filter bson.D, limit int) ([]string, error) {
	entries, err := mongodb.List[Entry](ctx, s.entries, filter, "_id", limit, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.ID
	}
	return ids, err
}

// Missing returns the given IDs that have no catalog entry, in their original order.
func (s *Store) Missing(ctx context.Context, ids []string) (missing []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := s.ids(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, 0)
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(found, id) }), err
}
