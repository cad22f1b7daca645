// Package catalog stores the file catalog in MongoDB. The record function adds an entry when it receives the event
// that announces a new file.
package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// DefaultLimit is the maximum number of entries that List returns if Query.Limit is 0.
	DefaultLimit = 50
	// MaxLimit is the highest valid value of Query.Limit.
	MaxLimit = 100
	// MaxName is the maximum length of Query.Name in bytes.
	MaxName = 255
)

// Entry is the catalog entry for a file. CataloguedAt is the time when the entry was created, in UTC. In the
// database, CataloguedAt has millisecond precision.
type Entry struct {
	file.Info    `bson:",inline"`
	CataloguedAt time.Time `bson:"catalogued_at"`
}

// Store provides access to the catalog in a MongoDB database. It is safe for concurrent use.
type Store struct{ entries *mongo.Collection }

// New returns the Store in db.
func New(db *mongo.Database) *Store { return &Store{db.Collection("catalogue")} }

// EnsureIndexes creates the indexes that List needs. It can be called repeatedly and concurrently, because it leaves
// existing indexes unchanged.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	return mongodb.EnsureIndexes(ctx,
		mongodb.Index{On: s.entries, Fields: []string{"-stored_at", "-_id"}},
		mongodb.Index{On: s.entries, Fields: []string{"owner", "-stored_at", "-_id"}})
}

// Insert adds e to the catalog and returns true. If an entry with the same ID already exists, Insert changes
// nothing and returns false without an error.
func (s *Store) Insert(ctx context.Context, e Entry) (inserted bool, err error) {
	err = mongodb.Insert(ctx, s.entries, mongodb.CallTimeout, e, "insert the catalog entry for file "+e.ID)
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

// Query selects the entries that List returns.
type Query struct {
	// Owner is a user ID. If Owner is not empty, List returns only the entries for this user's files.
	Owner string
	// Name is the text that List searches for in file names, ignoring case. It must be valid UTF-8 and at most
	// MaxName bytes long. If Name is empty, List returns files with any name.
	Name string
	// Limit is the maximum number of entries that List returns. It must be between 0 and MaxLimit, where 0 means
	// DefaultLimit.
	Limit int
	// Cursor is the value that List returned with the previous page, or empty for the first page.
	Cursor string
}

// List returns the entries that q selects, newest first, and a cursor for the next page (empty on the last page).
// If q is invalid, the error wraps problem.BadRequest.
func (s *Store) List(ctx context.Context, q Query) (entries []Entry, next string, err error) {
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		return nil, "", problem.BadRequest.With("the limit must be between 1 and %d", MaxLimit)
	}
	if len(q.Name) > MaxName || !utf8.ValidString(q.Name) {
		return nil, "", problem.BadRequest.With("the name to search for must be valid UTF-8 and at most %d bytes long", MaxName)
	}
	filter := bson.D{}
	if q.Name != "" {
		filter = append(filter, bson.E{Key: "name", Value: bson.Regex{Pattern: regexp.QuoteMeta(q.Name), Options: "i"}})
	}
	if q.Owner != "" {
		filter = append(filter, bson.E{Key: "owner", Value: q.Owner})
	}
	if q.Cursor != "" {
		after, err := parseCursor(q.Cursor)
		if err != nil {
			return nil, "", problem.BadRequest.With("the cursor is invalid")
		}
		// Start after the last entry of the previous page. If the query skipped a number of entries instead, new
		// entries would shift the pages.
		filter = append(filter, bson.E{Key: "$or", Value: bson.A{
			bson.D{{Key: "stored_at", Value: bson.D{{Key: "$lt", Value: after.storedAt}}}},
			bson.D{{Key: "stored_at", Value: after.storedAt}, {Key: "_id", Value: bson.D{{Key: "$lt", Value: after.id}}}},
		}})
	}
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	// Request one more entry than the limit to find out whether there is a next page.
	found, err := s.entries.Find(ctx, filter, options.Find().
		SetSort(bson.D{{Key: "stored_at", Value: -1}, {Key: "_id", Value: -1}}).
		SetLimit(int64(q.Limit)+1))
	if err != nil {
		return nil, "", mongodb.Problem(err, "find catalog entries")
	}
	entries = []Entry{}
	if err := found.All(ctx, &entries); err != nil {
		return nil, "", mongodb.Problem(err, "read catalog entries")
	}
	if len(entries) > q.Limit {
		entries = entries[:q.Limit]
		last := entries[q.Limit-1]
		next = cursor{last.StoredAt, last.ID}.String()
	}
	return entries, next, nil
}

// cursor identifies an entry's position in the results of List. It contains the two values by which List sorts entries.
type cursor struct {
	storedAt time.Time
	id       string
}

// String returns c as an opaque string that can be used in a URL without escaping.
func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%s", c.storedAt.UnixMilli(), c.id))
}

// parseCursor decodes a string that cursor.String returned.
func parseCursor(s string) (cursor, error) {
	plain, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return cursor{}, err
	}
	millis, id, found := strings.Cut(string(plain), ".")
	if !found || id == "" || !utf8.ValidString(id) {
		return cursor{}, errors.New("the cursor has no valid ID")
	}
	n, err := strconv.ParseInt(millis, 10, 64)
	if err != nil {
		return cursor{}, err
	}
	return cursor{time.UnixMilli(n), id}, nil
}
