package content

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// claimDocument is a document in the uploads.claims collection. It records the upload that has claimed an idempotency
// key.
type claimDocument struct {
	Key       string       `bson:"_id"`
	ClaimedAt time.Time    `bson:"claimed_at"`
	File      fileDocument `bson:"file"`
}

const (
	// maxClaims is the maximum number of uploads without a file that can have claimed the same key.
	maxClaims = 100
	// claimWait is how long Claim waits for the commit of another upload that has claimed the key. An upload commits
	// immediately after it has claimed the key. The limit affects only how often a client must repeat an upload.
	claimWait = 2 * time.Second
	// claimPoll is the interval at which Claim checks whether the other upload is committed.
	claimPoll = 20 * time.Millisecond
)

// nextKey returns the key to claim if the upload with the given ID has claimed key but has ended without a file, or if
// its file was deleted. No claim is ever replaced, because the supported servers cannot do that atomically.
func nextKey(key, id string) string { return key + "/" + id }

// Claimed returns the file whose upload has claimed the idempotency key. If there is no such file, found is false.
func (s *Store) Claimed(ctx context.Context, key string) (_ File, found bool, err error) {
	for range maxClaims {
		claim, err := mongodb.Read[claimDocument](ctx, s.claims, key)
		if err != nil || claim == nil {
			return File{}, false, err
		}
		doc, err := s.document(ctx, claim.File.ID)
		if err != nil || doc == nil { // the other upload is in progress, or its process was killed
			return File{}, false, err
		}
		if doc.live() {
			f, err := doc.file()
			return f, err == nil, err
		}
		key = nextKey(key, claim.File.ID)
	}
	return File{}, false, errManyClaims
}

// Claim claims the idempotency key for f and returns f. Call it immediately before the commit of f. If a file already
// has the key, Claim returns that file. If another upload has claimed the key but does not become a file within
// claimWait, Claim ends that upload.
func (s *Store) Claim(ctx context.Context, key string, f File) (File, error) {
	first := key
	for range maxClaims {
		now := s.now().UTC()
		err := mongodb.Insert(ctx, s.claims, mongodb.CallTimeout, claimDocument{key, now, document(f)}, "claim the idempotency key for file "+f.ID)
		if err != nil {
			claim, failed := mongodb.Read[claimDocument](ctx, s.claims, key)
			switch {
			case failed != nil:
				return File{}, failed
			case claim == nil && errors.Is(err, mongodb.ErrExists): // the sweep function has just deleted the claim
				continue
			case claim == nil:
				return File{}, err
			case claim.File.ID != f.ID:
				doc, err := s.claimer(ctx, claim.File.ID)
				if err != nil {
					return File{}, err
				}
				if doc.live() {
					return doc.file()
				}
				key = nextKey(key, claim.File.ID)
				continue
			}
		}
		if key != first {
			// Give the earlier claims the time of this claim, so that sweep does not delete them first. This claim cannot
			// be found without them.
			chain := bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: first}, {Key: "$lt", Value: key}}}}
			err = mongodb.UpdateAll(ctx, s.claims, chain, bson.D{{Key: "$set", Value: bson.D{{Key: "claimed_at", Value: now}}}})
			if err != nil {
				return File{}, err
			}
		}
		return f, nil
	}
	return File{}, errManyClaims
}

var errManyClaims = problem.KeyReused.With("too many uploads with this idempotency key have failed: use a new key")

// claimer returns the document of the file, or the tombstone, of an upload that has claimed a key. If neither exists
// within claimWait, claimer ends the upload.
func (s *Store) claimer(ctx context.Context, id string) (*fileDocument, error) {
	for deadline := time.Now().Add(claimWait); ; time.Sleep(claimPoll) {
		doc, err := s.document(ctx, id)
		if err != nil || doc != nil {
			return doc, err
		}
		if time.Now().After(deadline) {
			break
		}
	}
	if err := s.end(ctx, id); err != nil && !errors.Is(err, problem.Conflict) { // a conflict means that the upload has just become a file
		return nil, err
	}
	return s.document(ctx, id)
}

// ForgetClaims deletes all claims that were created before the given time, and returns how many it deleted.
func (s *Store) ForgetClaims(ctx context.Context, before time.Time) (int64, error) {
	return mongodb.RemoveAll(ctx, s.claims, bson.D{{Key: "claimed_at", Value: bson.D{{Key: "$lt", Value: before.UTC()}}}})
}
