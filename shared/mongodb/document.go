package mongodb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// CallTimeout is the time limit for a database call that does not transfer the bytes of a file, and does not delete
	// or update many documents.
	CallTimeout = 5 * time.Second
	// BulkTimeout is the time limit for a database call that deletes or updates many documents.
	BulkTimeout = 20 * time.Second
)

// A write has one of three outcomes. If the function returns nil, the write is done. If the error wraps ErrUnknown, the
// outcome is unknown. After any other error, the write is not done.
var (
	// ErrExists reports that a document was not inserted, because a majority of the servers already has a document
	// with the same unique key.
	ErrExists = errors.New("the document already exists")
	// ErrUnknown reports that a write might be done now, might be done later, or might never be done. After this error,
	// the caller must not delete the data of an upload, because the write might be the commit of the file.
	ErrUnknown = errors.New("it is unknown whether the write has been done")
)

// ID returns a filter for the document with the given ID.
func ID(id any) bson.D { return bson.D{{Key: "_id", Value: id}} }

// writing returns a context for a write with the given time limit. It keeps the deadline of ctx, but it ignores the
// cancellation of ctx, because the outcome of a canceled write would be unknown.
func writing(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	deadline := time.Now().Add(limit)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	return context.WithDeadline(context.WithoutCancel(ctx), deadline)
}

// Insert inserts a document within the given time limit.
func Insert(ctx context.Context, into *mongo.Collection, limit time.Duration, document any, action string) error {
	ctx, cancel := writing(ctx, limit)
	defer cancel()
	_, err := into.InsertOne(ctx, document)
	return outcome(err, action)
}

// outcome converts the error of a write to an error that wraps ErrExists, ErrUnknown, or neither of them.
func outcome(err error, action string) error {
	var write mongo.WriteException
	rejected := errors.As(err, &write)
	switch {
	case err == nil:
		return nil
	case rejected && write.WriteConcernError != nil:
		// It is unknown whether a majority of the servers has the write, or the existing document.
	case rejected && mongo.IsDuplicateKeyError(err):
		return fmt.Errorf("%s: %w: %w", action, ErrExists, err)
	case rejected && !Away(err), IsRefusal(err), unsent(err):
		return Problem(err, action)
	}
	return Problem(fmt.Errorf("%w: %w", ErrUnknown, err), action)
}

// Plain reports whether text is valid UTF-8 without control characters. No ID of a document and no value that a client
// can search for has other characters.
func Plain(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// Read returns the document with the given ID, or nil if the document does not exist.
func Read[T any](ctx context.Context, from *mongo.Collection, id any, opts ...options.Lister[options.FindOneOptions]) (*T, error) {
	if text, ok := id.(string); ok && !Plain(text) {
		return nil, nil // some servers report an error for such a string
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	var document T
	err := from.FindOne(ctx, ID(id), opts...).Decode(&document)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	if err != nil {
		return nil, Problem(err, fmt.Sprintf("read document %v from %s", id, from.Name()))
	}
	return &document, nil
}

// List returns up to limit documents that match filter, sorted by the given field in ascending order. A limit of 0
// means no limit.
func List[T any](ctx context.Context, from *mongo.Collection, filter bson.D, field string, limit int, opts ...options.Lister[options.FindOptions]) (documents []T, err error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	opts = append(opts, options.Find().SetSort(bson.D{{Key: field, Value: 1}}).SetLimit(int64(limit)))
	found, err := from.Find(ctx, filter, opts...)
	if err == nil {
		err = found.All(ctx, &documents)
	}
	return documents, Problem(err, "list documents in "+from.Name())
}

// IDs returns a filter for the documents with the given IDs.
func IDs(ids []string) bson.D {
	if len(ids) == 1 {
		return ID(ids[0]) // FerretDB does not use the index for $in
	}
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}
}

// Existing returns those of the given IDs that have a document.
func Existing(ctx context.Context, in *mongo.Collection, ids []string) (existing []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	documents, err := List[struct {
		ID string `bson:"_id"`
	}](ctx, in, IDs(ids), "_id", 0, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	for _, document := range documents {
		existing = append(existing, document.ID)
	}
	return existing, err
}

// Update applies update to the document that matches filter, if there is one. The update must be idempotent.
func Update(ctx context.Context, in *mongo.Collection, limit time.Duration, filter, update bson.D) error {
	ctx, cancel := writing(ctx, limit)
	defer cancel()
	_, err := in.UpdateOne(ctx, filter, update)
	return outcome(err, "update a document in "+in.Name())
}

// UpdateAll is like Update, but it updates all documents that match filter.
func UpdateAll(ctx context.Context, in *mongo.Collection, filter, update bson.D) error {
	ctx, cancel := writing(ctx, BulkTimeout)
	defer cancel()
	_, err := in.UpdateMany(ctx, filter, update)
	return outcome(err, "update documents in "+in.Name())
}

// Put replaces the document with the given ID, or inserts the document if it does not exist.
func Put(ctx context.Context, into *mongo.Collection, id string, document any) error {
	ctx, cancel := writing(ctx, CallTimeout)
	defer cancel()
	replace := func() error {
		_, err := into.ReplaceOne(ctx, ID(id), document, options.Replace().SetUpsert(true))
		return outcome(err, "replace document "+id+" in "+into.Name())
	}
	err := replace()
	if errors.Is(err, ErrExists) { // another process has inserted the document in the meantime
		err = replace() // inserts the document if it has been deleted since the first attempt
	}
	return err
}

// Remove deletes the document that matches filter, and reports whether such a document existed.
func Remove(ctx context.Context, from *mongo.Collection, filter bson.D) (existed bool, err error) {
	ctx, cancel := writing(ctx, CallTimeout)
	defer cancel()
	result, err := from.DeleteOne(ctx, filter)
	if err != nil {
		return false, outcome(err, "delete a document from "+from.Name())
	}
	return result.DeletedCount > 0, nil
}

// RemoveAll deletes all documents that match filter, and returns the number of deleted documents.
func RemoveAll(ctx context.Context, from *mongo.Collection, filter bson.D) (int64, error) {
	ctx, cancel := writing(ctx, BulkTimeout)
	defer cancel()
	result, err := from.DeleteMany(ctx, filter)
	if err != nil {
		return 0, outcome(err, "delete documents from "+from.Name())
	}
	return result.DeletedCount, nil
}

// Index describes an index of a collection.
type Index struct {
	On *mongo.Collection
	// Fields contains the names of the fields. The order is descending if a name starts with a hyphen-minus.
	Fields []string
	Unique bool
}

// EnsureIndexes creates each index that does not exist. It can be called repeatedly and concurrently. If ctx ends while
// the server builds an index, EnsureIndexes returns a problem.Unavailable, but the server continues to build the index.
// A later call waits for the same build.
func EnsureIndexes(ctx context.Context, indexes ...Index) error {
	// Wait with a context that ends with ctx but has no deadline. The driver would send a deadline to the server as
	// maxTimeMS, and the server aborts the build when this time has passed. The server does not abort the build when
	// the connection ends.
	wait, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	for _, index := range indexes {
		keys := bson.D{}
		for _, field := range index.Fields {
			name, descending := strings.CutPrefix(field, "-")
			key := bson.E{Key: name, Value: 1}
			if descending {
				key.Value = -1
			}
			keys = append(keys, key)
		}
		// Create each index with a separate command, because FerretDB rejects a command with several indexes if some of
		// these indexes already exist.
		_, err := index.On.Indexes().CreateOne(wait, mongo.IndexModel{Keys: keys, Options: options.Index().SetUnique(index.Unique)})
		action := fmt.Sprintf("create the index (%s) on %s", strings.Join(index.Fields, ", "), index.On.Name())
		if err != nil && ctx.Err() != nil {
			return problem.Unavailable.Because(fmt.Errorf("%s: MongoDB has not completed the index in time: "+
				"if it is building the index, it continues, and the next run of setup waits for the same build "+
				"(db.currentOp() in mongosh shows the progress): %w", action, err), "an index is not complete")
		}
		if err != nil {
			return Problem(err, action)
		}
	}
	return nil
}
