package catalog

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// DefaultLimit is the maximum number of entries that List returns if Query.Limit is 0.
	DefaultLimit = 50
	// MaxLimit is the highest valid value of Query.Limit.
	MaxLimit = 100
	// DefaultSort is the order in which List returns entries if Query.Sort is empty.
	DefaultSort = "-date"
)

// Query selects the entries that List returns.
type Query struct {
	// Owner is a user ID. If Owner is not empty, List returns only the entries for this user's files.
	Owner string
	// Name is the text that List searches for. For each word of Name, the name of a file must contain a word that
	// begins with this word. Case and the order of the words do not matter. Name must contain a word, must be valid
	// UTF-8 without control characters, and must be at most MaxName bytes long. If Name is empty, List returns files
	// with any name.
	Name string
	// Sort is one of name, size, date, -name, -size and -date, where the hyphen-minus means the descending order. If
	// Sort is empty, List uses DefaultSort. If Owner is empty, Sort must be date or -date. List then sorts the entries
	// by the time when the upload began, instead of the time when the file was stored.
	Sort string
	// Limit is the maximum number of entries that List returns. It must be between 0 and MaxLimit, where 0 means
	// DefaultLimit.
	Limit int
	// Cursor is the value that List returned with the previous page, or empty for the first page.
	Cursor string
}

// order is an order of entries. Entries with the same value of the field are sorted by their IDs.
type order struct {
	field
	// prefix identifies the order in a cursor. It is empty for the order that the previous version had.
	prefix string
	// descending also applies to the IDs, so that one index serves both directions.
	descending bool
}

var orders = map[string]order{
	"name":  {byName, "n", false},
	"-name": {byName, "N", true},
	"size":  {bySize, "s", false},
	"-size": {bySize, "S", true},
	"date":  {byDate, "d", false},
	"-date": {byDate, "", true},
}

// field is a field by which List sorts entries.
type field struct {
	name    string
	compare func(a, b document) int
	// format returns the value of the field as a part of a cursor, and parse converts it back.
	format func(document) string
	parse  func(string) (any, error)
}

var (
	byName = field{"name_key", func(a, b document) int { return cmp.Compare(a.Keys.NameKey, b.Keys.NameKey) },
		func(d document) string { return d.Keys.NameKey },
		func(s string) (any, error) {
			if s == "" { // the entry has no keys
				return nil, nil
			}
			return s, nil
		}}
	bySize = field{"size", func(a, b document) int { return cmp.Compare(a.Size, b.Size) },
		func(d document) string { return strconv.FormatInt(d.Size, 10) },
		func(s string) (any, error) { return strconv.ParseInt(s, 10, 64) }}
	byDate = field{"stored_at", func(a, b document) int { return a.StoredAt.Compare(b.StoredAt) },
		func(d document) string { return strconv.FormatInt(d.StoredAt.UnixMilli(), 10) },
		func(s string) (any, error) {
			millis, err := strconv.ParseInt(s, 10, 64)
			return time.UnixMilli(millis).UTC(), err
		}}
	// byID sorts by the time when the upload began, because the IDs contain this time. The cursors are the same as
	// those of byDate, so that functions of both versions can parse them.
	byID = field{"_id", func(a, b document) int { return 0 }, byDate.format, byDate.parse}
)

// List returns the entries that q selects, in the order of q.Sort, and a cursor for the next page (empty on the last
// page). If q is invalid, the error wraps problem.BadRequest.
func (s *Store) List(ctx context.Context, q Query) (entries []Entry, next string, err error) {
	limit := cmp.Or(q.Limit, DefaultLimit)
	if limit < 1 || limit > MaxLimit {
		return nil, "", problem.BadRequest.With("the limit must be between 1 and %d", MaxLimit)
	}
	o, exists := orders[cmp.Or(q.Sort, DefaultSort)]
	if !exists {
		return nil, "", problem.BadRequest.With("the value of sort must be one of %s", strings.Join(slices.Sorted(maps.Keys(orders)), ", "))
	}
	owned := bson.D{}
	switch {
	case !mongodb.Plain(q.Owner):
		return nil, "", problem.BadRequest.With("the owner must be valid UTF-8 without control characters")
	case q.Owner != "":
		owned = bson.D{{Key: "owner", Value: q.Owner}}
	case o.name != byDate.name:
		return nil, "", problem.BadRequest.With("the files of all users can only be sorted by date: add the parameter owner")
	default:
		o.field = byID
	}
	searches, err := search(q.Name)
	if err != nil {
		return nil, "", err
	}
	var after *cursor
	if q.Cursor != "" {
		if after, err = o.parseCursor(q.Cursor); err != nil {
			return nil, "", problem.BadRequest.With("the cursor is invalid")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	// Request one more entry than the limit to find out whether there is a next page.
	var found []document
	for _, in := range o.ranges(after) {
		missing := limit + 1 - len(found)
		if missing == 0 {
			break
		}
		var all []document
		for _, matching := range searches {
			filter := append(bson.D{}, slices.Concat(owned, in, matching)...) // not nil
			some, err := s.find(ctx, filter, options.Find().SetSort(o.sort()).SetLimit(int64(missing)))
			if err != nil {
				return nil, "", err
			}
			all = append(all, some...)
		}
		slices.SortFunc(all, o.compare)
		found = append(found, all[:min(missing, len(all))]...)
	}
	if len(found) > limit {
		found = found[:limit]
		next = o.cursor(found[limit-1])
	}
	entries = make([]Entry, len(found))
	for i, d := range found {
		entries[i] = d.Entry
	}
	return entries, next, nil
}

// find returns the documents that match filter. ctx must have a deadline.
func (s *Store) find(ctx context.Context, filter bson.D, opts *options.FindOptionsBuilder) (documents []document, err error) {
	found, err := s.entries.Find(ctx, filter, opts)
	if err == nil {
		err = found.All(ctx, &documents)
	}
	return documents, mongodb.Problem(err, "find catalog entries")
}

// ranges returns filters that together select the entries after the given position, or all entries if after is nil.
// Each filter selects a single range of an index, and its results come before the results of the next filter. One
// filter for all these entries would need $or, and a server would possibly read more than a page, such as all files of
// the same size.
func (o order) ranges(after *cursor) []bson.D {
	next := "$gt"
	if o.descending {
		next = "$lt"
	}
	where := func(name string, value any) bson.D { return bson.D{{Key: name, Value: value}} }
	// In both directions, entries without keys come before all other names. If AddKeys adds the keys between two pages,
	// a later page can contain the entry again, but the entry is always in a page.
	named := where(o.name, where("$gte", ""))
	switch {
	case after == nil && o.name == byName.name:
		return []bson.D{where(o.name, nil), named}
	case after == nil:
		return []bson.D{{}}
	case o.name == byID.name:
		return []bson.D{where("_id", where(next, after.id))}
	}
	same := append(where(o.name, after.value), where("_id", where(next, after.id))...)
	if after.value == nil {
		return []bson.D{same, named}
	}
	return []bson.D{same, where(o.name, where(next, after.value))}
}

// sort returns the specification with which the server sorts entries.
func (o order) sort() bson.D {
	direction := 1
	if o.descending {
		direction = -1
	}
	id := bson.E{Key: "_id", Value: direction}
	if o.name == id.Key {
		return bson.D{id}
	}
	return bson.D{{Key: o.name, Value: direction}, id}
}

// compare compares two documents as the server does.
func (o order) compare(a, b document) int {
	result := cmp.Or(o.field.compare(a, b), cmp.Compare(a.ID, b.ID))
	if o.descending {
		return -result
	}
	return result
}

// cursor is the position of an entry in the results of List. It contains the values by which List sorts entries.
type cursor struct {
	value any
	id    string
}

// cursor returns the position of d as an opaque string that can be used in a URL without escaping.
func (o order) cursor(d document) string {
	return base64.RawURLEncoding.EncodeToString([]byte(o.prefix + o.format(d) + "." + d.ID))
}

// parseCursor decodes a string that the method cursor returned for the same order.
func (o order) parseCursor(s string) (*cursor, error) {
	plain, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, err
	}
	position, found := strings.CutPrefix(string(plain), o.prefix)
	end := strings.LastIndexByte(position, '.') // a name can contain a dot, but an ID cannot
	if !found || end < 0 || end == len(position)-1 || !mongodb.Plain(string(plain)) {
		return nil, errors.New("the cursor is malformed or belongs to another order")
	}
	value, err := o.parse(position[:end])
	return &cursor{value, position[end+1:]}, err
}
