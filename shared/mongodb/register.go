package mongodb

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// changeTimeout is the time limit for a change of a register, including its retries.
	changeTimeout = 20 * time.Second
	// maxPause is the longest pause before the next attempt to change a register.
	maxPause = 100 * time.Millisecond
	// keptVersions is the number of versions that a register keeps at least. A register has at most twice as many.
	keptVersions = 16
	// turns is the number of locks that all registers share.
	turns = 256
)

// Registers stores a value of type T for each key. Each change of a value inserts a document with the next version
// number (docs/decisions/012). It is safe for concurrent use, also by several processes.
type Registers[T any] struct {
	versions *mongo.Collection
	// turns contains a lock for each group of keys. Within a process, only one goroutine at a time changes a register,
	// because concurrent changes of the same register would only delay each other.
	turns [turns]chan struct{}
}

// version is a document in the collection of the registers.
type version[T any] struct {
	// ID consists of the key and the version number. The number has leading zeros, so that the versions of a key sort
	// by number.
	ID     string `bson:"_id"`
	Key    string `bson:"key"`
	Number int64  `bson:"number"`
	Value  T      `bson:"value"`
}

func versionID(key string, number int64) string { return fmt.Sprintf("%s/%020d", key, number) }

// NewRegisters returns the registers in a collection.
func NewRegisters[T any](versions *mongo.Collection) *Registers[T] {
	r := &Registers[T]{versions: versions}
	for i := range r.turns {
		r.turns[i] = make(chan struct{}, 1)
	}
	return r
}

// before returns a filter for the versions of a key whose number is lower than the given number.
func before(key string, number int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: versionID(key, 0)}, {Key: "$lt", Value: versionID(key, number)}}}}
}

// maxVersion is higher than all version numbers.
const maxVersion = 1 << 62

// Latest returns the latest value of a key and its version number. If there is no value, the result is nil and 0.
func (r *Registers[T]) Latest(ctx context.Context, key string) (*T, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	var latest version[T]
	err := r.versions.FindOne(ctx, before(key, maxVersion), options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}})).Decode(&latest)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, Problem(err, "read the latest version of "+key+" from "+r.versions.Name())
	}
	return &latest.Value, latest.Number, nil
}

// NextKey returns the first key after the given key, in ascending order. After the last key, it returns an empty
// string.
func (r *Registers[T]) NextKey(ctx context.Context, after string) (string, error) {
	filter := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: versionID(after, maxVersion)}}}}
	if after == "" {
		filter = bson.D{}
	}
	next, err := List[version[bson.Raw]](ctx, r.versions, filter, "_id", 1, options.Find().SetProjection(bson.D{{Key: "key", Value: 1}}))
	if err != nil || len(next) == 0 {
		return "", err
	}
	return next[0].Key, nil
}

// Change calls next with the latest value of a key, or nil, and stores the value that next returns. If next returns
// nil, nothing needs to change. Change calls next again if another writer has changed the value in the meantime, and
// after it has stored a value, unless this value is still the latest one. Therefore, next must return nil if the latest
// value already contains the change. If the outcome is unknown, the error wraps ErrUnknown.
func (r *Registers[T]) Change(ctx context.Context, key string, next func(context.Context, *T) (*T, error)) error {
	ctx, cancel := writing(ctx, changeTimeout)
	defer cancel()
	turn := r.turns[maphash.String(seed, key)%turns]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return busy(ctx, key)
	}
	var inserted int64 // the number of the version that this call has inserted, or 0
	for attempt := 0; ; attempt++ {
		latest, number, err := r.Latest(ctx, key)
		if err == nil {
			if inserted > 0 && number == inserted {
				return nil
			}
			value, refused := next(ctx, latest)
			if refused != nil || value == nil {
				// The latest version shows whether the change is done, even if this call has inserted a version.
				return refused
			}
			err = r.insert(ctx, key, number+1, *value)
		}
		switch {
		case err == nil:
			// Read the latest version again. The new version has no effect if this process was suspended before the
			// insert and other writers have meanwhile added, and deleted, a version with the same number.
			inserted = number + 1
			continue
		case errors.Is(err, ErrExists): // another writer has inserted this version
			select {
			case <-time.After(rand.N(min(maxPause, time.Millisecond<<min(attempt, 10)))):
				continue
			case <-ctx.Done():
				err = busy(ctx, key)
			}
		}
		if inserted > 0 {
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return err
	}
}

// seed is the seed of the hash function that assigns the keys to the locks.
var seed = maphash.MakeSeed()

// insert inserts a version. After each keptVersions versions, it deletes the old versions.
func (r *Registers[T]) insert(ctx context.Context, key string, number int64, value T) error {
	err := Insert(ctx, r.versions, CallTimeout, version[T]{versionID(key, number), key, number, value}, "change "+key+" in "+r.versions.Name())
	if err == nil && number%keptVersions == 0 {
		// Ignore an error, because the deletion only frees space, and the next deletion includes the same versions.
		_, _ = RemoveAll(ctx, r.versions, before(key, number-keptVersions))
	}
	return err
}

// busy is the error of a change that could not be made in time.
func busy(ctx context.Context, key string) error {
	return problem.Unavailable.Because(fmt.Errorf("change %s: %w", key, ctx.Err()), "too many concurrent requests: try again later")
}
