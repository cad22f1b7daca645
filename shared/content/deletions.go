package content

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// deletion is a document in the deletions collection. It exists while the deletion of a file is incomplete.
type deletion struct {
	ID string `bson:"_id"`
	// Owner is the owner of the file. It is empty if the file did not exist, or if the previous version began the
	// deletion.
	Owner string `bson:"owner,omitempty"`
	// DueAt is the time when the deletion becomes due. The sweep function visits the deletion when it has been due for
	// PENDING_GRACE.
	DueAt time.Time `bson:"buried_at"`
}

// MarkDeleted replaces the document of a file with a tombstone, so that the file no longer exists. The caller must then
// delete the catalog entry and call Delete. MarkDeleted can be called repeatedly.
func (s *Store) MarkDeleted(ctx context.Context, id string) error {
	doc, err := s.document(ctx, id)
	if err != nil {
		return err
	}
	var owner string
	if doc.live() {
		owner = doc.Metadata.Owner
	}
	// Insert the deletion record before the tombstone. If only the tombstone existed, the sweep function would never
	// delete the file's chunks.
	err = mongodb.Insert(ctx, s.deletions, mongodb.CallTimeout, deletion{id, owner, s.now().UTC()}, "begin the deletion of file "+id)
	if errors.Is(err, mongodb.ErrExists) && owner != "" {
		// The previous version might have inserted the record, without the owner.
		err = mongodb.Update(ctx, s.deletions, mongodb.CallTimeout, mongodb.ID(id), bson.D{{Key: "$set", Value: bson.D{{Key: "owner", Value: owner}}}})
	}
	if err != nil && !errors.Is(err, mongodb.ErrExists) {
		return err
	}
	if owner != "" {
		if _, err := s.adopt(ctx, owner, id, true); err != nil {
			return err
		}
	}
	if err := s.markForPrevious(ctx, id); err != nil {
		return err
	}
	// If the file has no document, insert the tombstone, so that a suspended process cannot insert the document later.
	return mongodb.Put(ctx, s.files, id, s.tombstone(id))
}

// Delete deletes the chunks, the journal, the reservation, the note and the deletion record of a file that is marked as
// deleted.
func (s *Store) Delete(ctx context.Context, id string) error {
	record, err := mongodb.Read[deletion](ctx, s.deletions, id)
	if err != nil {
		return err
	}
	var owner string
	if record != nil {
		owner = record.Owner
	}
	if err := s.purge(ctx, owner, id); err != nil {
		return err
	}
	// Delete the deletion record last, because the sweep function needs it to complete an interrupted deletion.
	_, err = mongodb.Remove(ctx, s.deletions, mongodb.ID(id))
	return err
}

// PendingDeletions returns the IDs of up to limit files whose deletion is incomplete and whose due time is not after
// the given time. It sorts them by the due time.
func (s *Store) PendingDeletions(ctx context.Context, at time.Time, limit int) (ids []string, err error) {
	pending, err := mongodb.List[deletion](ctx, s.deletions, bson.D{{Key: "buried_at", Value: bson.D{{Key: "$lte", Value: at.UTC()}}}}, "buried_at", limit)
	for _, d := range pending {
		ids = append(ids, d.ID)
	}
	return ids, err
}

// PostponeDeletion sets the due time of an incomplete deletion.
func (s *Store) PostponeDeletion(ctx context.Context, id string, until time.Time) error {
	return mongodb.Update(ctx, s.deletions, mongodb.CallTimeout, mongodb.ID(id), bson.D{{Key: "$set", Value: bson.D{{Key: "buried_at", Value: until.UTC()}}}})
}
