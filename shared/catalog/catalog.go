// Package catalog keeps the catalogue: one entry for each file that was stored and announced.
package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// DefaultLimit and MaxLimit are how many entries List returns.
	DefaultLimit = 50
	MaxLimit     = 100
	// MaxName bounds the name that List searches for, in bytes.
	MaxName = 255

	// callTimeout bounds one call to the server.
	callTimeout = 5 * time.Second
)

// Entry describes one file. Times are in UTC with a resolution of one millisecond.
type Entry struct {
	ID           string    `json:"id" bson:"_id"`
	Owner        string    `json:"owner" bson:"owner"`
	Name         string    `json:"name" bson:"name"`
	Size         int64     `json:"size" bson:"size"`
	SHA256       string    `json:"sha256" bson:"sha256"`
	ContentType  string    `json:"content_type" bson:"content_type"`
	StoredAt     time.Time `json:"stored_at" bson:"stored_at"`
	CataloguedAt time.Time `json:"catalogued_at" bson:"catalogued_at"`
}

// Store keeps entries. It may be used by many goroutines at once.
type Store struct {
	db      *mongo.Database
	entries *mongo.Collection
}

// Open returns the catalogue in the database that uri names. It makes no connection: a server that is away shows in
// the first call.
func Open(uri string) (*Store, error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return nil, err
	}
	return &Store{db, db.Collection("catalogue")}, nil
}

// Close ends the store's connections.
func (s *Store) Close() error { return mongodb.Close(s.db) }

// EnsureIndexes makes the indexes that List needs. It may run any number of times, also side by side.
func (s *Store) EnsureIndexes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, keys := range []bson.D{
		{{Key: "stored_at", Value: -1}, {Key: "_id", Value: -1}},
		{{Key: "owner", Value: 1}, {Key: "stored_at", Value: -1}, {Key: "_id", Value: -1}},
	} {
		// One by one: FerretDB breaks off at a command with several indexes that it has already.
		if _, err := s.entries.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: keys}); err != nil {
			return mongodb.Problem(err, "make the indexes of the catalogue")
		}
	}
	return nil
}

// Insert adds e and reports true, or reports false when an entry with its id is there already: an event that is
// delivered twice makes one entry.
func (s *Store) Insert(ctx context.Context, e Entry) (inserted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = s.entries.InsertOne(ctx, e)
	if mongo.IsDuplicateKeyError(err) {
		return false, nil
	}
	if err != nil {
		return false, mongodb.Problem(err, "catalogue file "+e.ID)
	}
	return true, nil
}

// Delete removes the entry with the given id; one that is not there is no error.
func (s *Store) Delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.entries.DeleteOne(ctx, bson.D{{Key: "_id", Value: id}})
	return mongodb.Problem(err, "delete the catalogue entry of file "+id)
}

// Get returns the entry with the given id, or problem.NotFound.
func (s *Store) Get(ctx context.Context, id string) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var e Entry
	err := s.entries.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&e)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return Entry{}, problem.NotFound.With("there is no such file")
	}
	if err != nil {
		return Entry{}, mongodb.Problem(err, "read the catalogue entry of file "+id)
	}
	e.inUTC()
	return e, nil
}

// Missing returns those of ids that have no entry.
func (s *Store) Missing(ctx context.Context, ids []string) (missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := s.entries.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, mongodb.Problem(err, "look for catalogue entries")
	}
	var entries []Entry
	if err := found.All(ctx, &entries); err != nil {
		return nil, mongodb.Problem(err, "read the ids of catalogue entries")
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.ID] = true
	}
	for _, id := range ids {
		if !there[id] {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

// Query says which entries List returns.
type Query struct {
	// Owner, unless empty, is the user whose entries are returned.
	Owner string
	// Name, unless empty, is what the file's name must have in it, in letters of either case. It has MaxName bytes at most.
	Name string
	// Limit is 1 to MaxLimit; 0 means DefaultLimit.
	Limit int
	// Cursor, unless empty, is what the List before returned as next.
	Cursor string
}

// List returns entries, the newest first, and the cursor for those after them, empty when these were the last. Paging
// through all of them returns each entry that was there at the start exactly once, whatever is added meanwhile. A
// wrong name, limit or cursor is problem.BadRequest.
func (s *Store) List(ctx context.Context, q Query) (entries []Entry, next string, err error) {
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		return nil, "", problem.BadRequest.With("the limit must be between 1 and %d", MaxLimit)
	}
	if len(q.Name) > MaxName || !utf8.ValidString(q.Name) {
		return nil, "", problem.BadRequest.With("the name to search for must be UTF-8 of at most %d bytes", MaxName)
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
			return nil, "", problem.BadRequest.With("the cursor is none that was given out")
		}
		filter = append(filter, bson.E{Key: "$or", Value: bson.A{
			bson.D{{Key: "stored_at", Value: bson.D{{Key: "$lt", Value: after.storedAt}}}},
			bson.D{{Key: "stored_at", Value: after.storedAt}, {Key: "_id", Value: bson.D{{Key: "$lt", Value: after.id}}}},
		}})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// One more than asked for tells whether there are more.
	found, err := s.entries.Find(ctx, filter, options.Find().
		SetSort(bson.D{{Key: "stored_at", Value: -1}, {Key: "_id", Value: -1}}).
		SetLimit(int64(q.Limit)+1))
	if err != nil {
		return nil, "", mongodb.Problem(err, "list the catalogue")
	}
	entries = []Entry{}
	if err := found.All(ctx, &entries); err != nil {
		return nil, "", mongodb.Problem(err, "list the catalogue")
	}
	for i := range entries {
		entries[i].inUTC()
	}
	if len(entries) > q.Limit {
		entries = entries[:q.Limit]
		last := entries[q.Limit-1]
		next = cursor{last.StoredAt, last.ID}.String()
	}
	return entries, next, nil
}

func (e *Entry) inUTC() {
	e.StoredAt, e.CataloguedAt = e.StoredAt.UTC(), e.CataloguedAt.UTC()
}

// cursor is the place of an entry in the order of List.
type cursor struct {
	storedAt time.Time
	id       string
}

// String returns the opaque form of c that is safe in a URL.
func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%s", c.storedAt.UnixMilli(), c.id))
}

func parseCursor(s string) (cursor, error) {
	plain, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return cursor{}, err
	}
	millis, id, found := strings.Cut(string(plain), ".")
	if !found || id == "" || !utf8.ValidString(id) {
		return cursor{}, errors.New("the cursor has no id")
	}
	n, err := strconv.ParseInt(millis, 10, 64)
	if err != nil {
		return cursor{}, err
	}
	return cursor{time.UnixMilli(n), id}, nil
}
