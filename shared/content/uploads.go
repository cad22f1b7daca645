package content

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// uploadDocument is an upload record. It exists from the start of an upload until the broker confirms the event for
// the file, or until the upload is discarded.
type uploadDocument struct {
	ID    string `bson:"_id"`
	Owner string `bson:"owner"`
	// Length is the declared file size in bytes, or -1 if it is unknown. Length is 0 for the temporary files
	// of AppendVerified and for terminated uploads, which Usage must not count.
	Length int64 `bson:"length"`
	// ExpiresAt is the time when a resumable upload expires. It is nil for a single-request upload.
	ExpiresAt *time.Time `bson:"expires_at"`
	// Tus contains the fields that only a resumable upload has. It is nil for a single-request upload.
	Tus *tusDocument `bson:"tus,omitempty"`
}

// begin inserts the upload record d.
func (s *Store) begin(ctx context.Context, d uploadDocument) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.uploads.InsertOne(ctx, d)
	return mongodb.Problem(err, "insert upload record "+d.ID)
}

// uploadRecord returns the upload record with the given ID, or nil if the record does not exist.
func (s *Store) uploadRecord(ctx context.Context, id string) (*uploadDocument, error) {
	return read[uploadDocument](ctx, s.uploads, id)
}

// Confirm deletes a file's upload record. Call it after the broker has confirmed the event for the file, so that
// the sweep function does not publish the event again.
func (s *Store) Confirm(ctx context.Context, id string) error { return s.remove(ctx, s.uploads, id) }

// Confirmed reports whether the broker has confirmed the event for a file. A file without an upload record counts as
// confirmed, so Confirmed also reports true for an unknown ID.
func (s *Store) Confirmed(ctx context.Context, id string) (bool, error) {
	d, err := s.uploadRecord(ctx, id)
	return err == nil && d == nil, err
}

// Discard deletes an upload that was not committed. If Finish has already begun to turn the upload into a file,
// Discard keeps the upload, and the error wraps problem.Conflict.
func (s *Store) Discard(ctx context.Context, id string) error {
	d, err := s.uploadRecord(ctx, id)
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

// deleteUpload deletes the chunks, the journal and the upload record of a file or an upload.
func (s *Store) deleteUpload(ctx context.Context, id string) error {
	if err := s.deleteChunks(ctx, id); err != nil {
		return err
	}
	if err := s.dropJournal(ctx, id); err != nil {
		return err
	}
	// Delete the upload record last, so that the sweep function can find an interrupted deletion and complete it.
	return s.Confirm(ctx, id)
}

// Usage returns the owner's storage usage in bytes. It adds up the sizes of the owner's files and the
// declared sizes of the owner's uploads in progress. Uploads without a declared size do not count.
func (s *Store) Usage(ctx context.Context, owner string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Read the upload records before the files, so that an upload that is committed and confirmed between the two
	// queries is still counted.
	records, err := page[uploadDocument](ctx, s.uploads, bson.D{{Key: "owner", Value: owner}, {Key: "length", Value: bson.D{{Key: "$gt", Value: 0}}}}, 0)
	if err != nil {
		return 0, err
	}
	files, err := s.files.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "metadata.owner", Value: owner}}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: nil}, {Key: "bytes", Value: bson.D{{Key: "$sum", Value: "$length"}}}}}},
	})
	if err != nil {
		return 0, mongodb.Problem(err, "add up the file sizes for user "+owner)
	}
	var sums []struct {
		Bytes int64 `bson:"bytes"`
	}
	if err := files.All(ctx, &sums); err != nil {
		return 0, mongodb.Problem(err, "read the total file size for user "+owner)
	}
	var usage int64
	for _, sum := range sums { // sums is empty if the user has no files
		usage += sum.Bytes
	}
	for _, record := range records {
		// Do not count an upload that has become a file, because usage already includes the file's size.
		n, err := s.files.CountDocuments(ctx, bson.D{{Key: "_id", Value: record.ID}})
		if err != nil {
			return 0, mongodb.Problem(err, "find file "+record.ID)
		}
		if n == 0 {
			usage += record.Length
		}
	}
	return usage, nil
}

// Pending describes an upload in progress, an interrupted upload, or a stored file whose event is not confirmed yet.
type Pending struct {
	ID string
	// Resumable reports whether the client can continue the upload in another request until it expires.
	Resumable bool
	// ExpiresAt is the time when a resumable upload expires. It is the zero time for a single-request upload.
	ExpiresAt time.Time
}

// Unfinished lists the records of uploads that began before the given time, oldest first. To get the next page, pass
// the last ID of the previous page as "after". For the first page, pass an empty string.
func (s *Store) Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]Pending, error) {
	records, err := page[uploadDocument](ctx, s.uploads,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}, {Key: "$lt", Value: firstID(before)}}}}, limit)
	unfinished := make([]Pending, len(records))
	for i, record := range records {
		unfinished[i] = Pending{ID: record.ID}
		if record.ExpiresAt != nil {
			unfinished[i].Resumable, unfinished[i].ExpiresAt = true, record.ExpiresAt.UTC()
		}
	}
	return unfinished, err
}

// firstID returns the lowest UUIDv7 (RFC 9562, Section 5.7) for the millisecond that contains the given time.
// Because UUIDv7 values sort by time, all UUIDs from earlier milliseconds are lower.
func firstID(at time.Time) string {
	ms := uint64(max(at.UnixMilli(), 0))
	id := uuid.UUID{byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms), 0x70, 0, 0x80}
	return id.String()
}

// claimDocument is a document in the uploads.claims collection. It records the first file that was stored for an
// idempotency key.
type claimDocument struct {
	Key       string       `bson:"_id"`
	ClaimedAt time.Time    `bson:"claimed_at"`
	File      fileDocument `bson:"file"`
}

// Claimed returns the file that Claim recorded for the idempotency key. If no file is recorded for this key, found
// is false.
func (s *Store) Claimed(ctx context.Context, key string) (_ File, found bool, err error) {
	claim, err := read[claimDocument](ctx, s.claims, key)
	if err != nil || claim == nil {
		return File{}, false, err
	}
	f, err := claim.File.file()
	return f, err == nil, err
}

// claimAttempts is the maximum number of attempts in Claim. An attempt fails if another caller deletes the record
// for the key before Claim reads it, or if an insert gets no response and has no effect.
const claimAttempts = 3

// Claim records f as the file for the idempotency key and returns f. If another file is already recorded for the
// key, Claim returns that file. To publish only one event per key, call Claim after f is committed, but before you
// publish the event for f.
func (s *Store) Claim(ctx context.Context, key string, f File) (File, error) {
	for range claimAttempts {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.claims.InsertOne(call, claimDocument{key, s.now().UTC(), document(f, nil)})
		cancel()
		if err == nil {
			return f, nil
		}
		// Do not return the error in two cases. A duplicate-key error means that a file is already recorded for the
		// key. If the server did not respond, the insert might have succeeded. In both cases, read the record.
		if !mongo.IsDuplicateKeyError(err) && !mongodb.Away(err) {
			return File{}, mongodb.Problem(err, "claim the idempotency key for file "+f.ID)
		}
		if first, found, failed := s.Claimed(ctx, key); found || failed != nil {
			return first, failed
		}
	}
	return File{}, fmt.Errorf("claim the idempotency key for file %s: gave up after %d attempts", f.ID, claimAttempts)
}

// ForgetClaims deletes all claims that were created before the given time, and returns how many it deleted. A claim
// records which file belongs to an idempotency key.
func (s *Store) ForgetClaims(ctx context.Context, before time.Time) (int64, error) {
	return s.removeOlder(ctx, s.claims, "claimed_at", before)
}

// removeOlder deletes all documents in which the given field contains a time before the given time. It returns the
// number of deleted documents.
func (s *Store) removeOlder(ctx context.Context, from *mongo.Collection, field string, before time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	result, err := from.DeleteMany(ctx, bson.D{{Key: field, Value: bson.D{{Key: "$lt", Value: before.UTC()}}}})
	if err != nil {
		return 0, mongodb.Problem(err, "delete expired documents from "+from.Name())
	}
	return result.DeletedCount, nil
}
