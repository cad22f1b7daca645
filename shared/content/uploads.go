package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// openDocument is a document of uploads: the note that a file is on its way.
type openDocument struct {
	ID    string `bson:"_id"`
	Owner string `bson:"owner"`
	// Length is what the client declared, in bytes, or -1.
	Length int64 `bson:"length"`
	// ExpiresAt is when a resumable upload ends; nil for one that has to come in one request.
	ExpiresAt *time.Time `bson:"expires_at"`
	// Tus is there for a resumable upload only.
	Tus *tusDocument `bson:"tus,omitempty"`
}

// open notes that a file is on its way.
func (s *Store) open(ctx context.Context, d openDocument) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.uploads.InsertOne(ctx, d)
	return mongodb.Problem(err, "note upload "+d.ID)
}

// opened returns the note of a file that is on its way, or nil.
func (s *Store) opened(ctx context.Context, id string) (*openDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var d openDocument
	err := s.uploads.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	return &d, mongodb.Problem(err, "read the note of upload "+id)
}

// Confirm notes that the event of the file with the given id has reached the broker: nothing is left to do for it.
func (s *Store) Confirm(ctx context.Context, id string) error { return s.remove(ctx, s.uploads, id) }

// Confirmed tells whether nothing is left to do for the file with the given id. It is true of one that never was.
func (s *Store) Confirmed(ctx context.Context, id string) (bool, error) {
	d, err := s.opened(ctx, id)
	return err == nil && d == nil, err
}

// Discard deletes the bytes of an upload that was never committed, and then its note. A resumable one that is being made
// a file (see Finish) is problem.Conflict.
func (s *Store) Discard(ctx context.Context, id string) error {
	d, err := s.opened(ctx, id)
	if err != nil {
		return err
	}
	if d != nil && d.Tus != nil {
		if err := s.end(ctx, id, sealExpired); err != nil {
			return err
		}
	}
	return s.deleteUpload(ctx, id)
}

// deleteUpload deletes the bytes of a file or of an upload, and then what is noted of it.
func (s *Store) deleteUpload(ctx context.Context, id string) error {
	if err := s.discard(ctx, id); err != nil {
		return err
	}
	if err := s.dropJournal(ctx, id); err != nil {
		return err
	}
	return s.Confirm(ctx, id)
}

// Usage returns the bytes of the files that belong to owner, and of those on their way as far as they were declared.
func (s *Store) Usage(ctx context.Context, owner string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The open ones first: one that is committed in between is counted twice for once, not missed.
	open, err := s.uploads.Find(ctx, bson.D{{Key: "owner", Value: owner}, {Key: "length", Value: bson.D{{Key: "$gt", Value: 0}}}})
	if err != nil {
		return 0, mongodb.Problem(err, "find the open uploads of "+owner)
	}
	var notes []openDocument
	if err := open.All(ctx, &notes); err != nil {
		return 0, mongodb.Problem(err, "read the open uploads of "+owner)
	}
	files, err := s.files.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "metadata.owner", Value: owner}}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: nil}, {Key: "bytes", Value: bson.D{{Key: "$sum", Value: "$length"}}}}}},
	})
	if err != nil {
		return 0, mongodb.Problem(err, "add up the files of "+owner)
	}
	var sums []struct {
		Bytes int64 `bson:"bytes"`
	}
	if err := files.All(ctx, &sums); err != nil {
		return 0, mongodb.Problem(err, "read the sum of the files of "+owner)
	}
	var usage int64
	for _, sum := range sums {
		usage += sum.Bytes
	}
	for _, note := range notes {
		// One that is committed and waits for its confirmation is among the files already.
		n, err := s.files.CountDocuments(ctx, bson.D{{Key: "_id", Value: note.ID}})
		if err != nil {
			return 0, mongodb.Problem(err, "look for file "+note.ID)
		}
		if n == 0 {
			usage += note.Length
		}
	}
	return usage, nil
}

// Unfinished is what is noted of a file on its way.
type Unfinished struct {
	ID string
	// Resumable tells that it may come in several requests, until ExpiresAt.
	Resumable bool
	ExpiresAt time.Time
}

// Unfinished returns at most limit of the files on their way that began before the given time, the oldest first,
// beginning after the one with the id after.
func (s *Store) Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]Unfinished, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := s.uploads.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}, {Key: "$lt", Value: firstID(before)}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, mongodb.Problem(err, "find unfinished uploads")
	}
	var notes []openDocument
	if err := found.All(ctx, &notes); err != nil {
		return nil, mongodb.Problem(err, "read unfinished uploads")
	}
	unfinished := make([]Unfinished, len(notes))
	for i, note := range notes {
		unfinished[i] = Unfinished{ID: note.ID}
		if note.ExpiresAt != nil {
			unfinished[i].Resumable, unfinished[i].ExpiresAt = true, note.ExpiresAt.UTC()
		}
	}
	return unfinished, nil
}

// firstID returns the lowest UUIDv7 of a millisecond (RFC 9562, section 5.7): their order is that of time.
func firstID(at time.Time) string {
	ms := uint64(max(at.UnixMilli(), 0))
	id := uuid.UUID{byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms), 0x70, 0, 0x80}
	return id.String()
}

// claimDocument is a document of uploads.claims: the first answer to an idempotency key.
type claimDocument struct {
	Key       string       `bson:"_id"`
	ClaimedAt time.Time    `bson:"claimed_at"`
	File      fileDocument `bson:"file"`
}

// Claimed returns the file that has claimed key, if one has.
func (s *Store) Claimed(ctx context.Context, key string) (_ File, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var d claimDocument
	err = s.claims.FindOne(ctx, bson.D{{Key: "_id", Value: key}}).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return File{}, false, nil
	}
	if err != nil {
		return File{}, false, mongodb.Problem(err, "read a claim")
	}
	f, err := d.File.file()
	return f, err == nil, err
}

// claimAttempts bounds the tries of Claim where a claim comes and goes.
const claimAttempts = 3

// Claim makes f the file of key, and returns it, unless another is: then it returns that one. The same key and file may be
// claimed any number of times. A key is claimed after the file is committed and before its event is published, so that
// of the files that were sent under one key, one is told of.
func (s *Store) Claim(ctx context.Context, key string, f File) (File, error) {
	for range claimAttempts {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.claims.InsertOne(call, claimDocument{key, time.Now().UTC(), document(f, nil)})
		cancel()
		if err == nil {
			return f, nil
		}
		// One that got no answer may have been done: the next try finds it.
		if !mongo.IsDuplicateKeyError(err) && !mongodb.Away(err) {
			return File{}, mongodb.Problem(err, "claim for file "+f.ID)
		}
		if first, found, failed := s.Claimed(ctx, key); found || failed != nil {
			return first, failed
		}
	}
	return File{}, fmt.Errorf("claim for file %s: the claim of another comes and goes", f.ID)
}

// Unclaim takes back the claim of the file with the given id; that of another stays.
func (s *Store) Unclaim(ctx context.Context, key, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.claims.DeleteOne(ctx, bson.D{{Key: "_id", Value: key}, {Key: "file._id", Value: id}})
	return mongodb.Problem(err, "take back the claim of file "+id)
}

// ForgetClaims deletes the claims that were made before the given time, and returns their number.
func (s *Store) ForgetClaims(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.claims, "claimed_at", before)
}

// removeOlder deletes the documents whose field is before the given time, and returns their number.
func (s *Store) removeOlder(ctx context.Context, from *mongo.Collection, field string, before time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	result, err := from.DeleteMany(ctx, bson.D{{Key: field, Value: bson.D{{Key: "$lt", Value: before.UTC()}}}})
	if err != nil {
		return 0, mongodb.Problem(err, "delete the old of "+from.Name())
	}
	return result.DeletedCount, nil
}
