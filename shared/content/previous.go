package content

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// The code in this file is needed only for an upgrade from the previous version. During the upgrade, functions of both
// versions can run at the same time. The previous version deletes the document of a deleted file, and instead inserts a
// document into the collection deletions.tombstones. The next version no longer needs this file.

// markForPrevious marks a file as deleted for functions of the previous version.
func (s *Store) markForPrevious(ctx context.Context, id string) error {
	err := mongodb.Insert(ctx, s.db.Collection("deletions.tombstones"), mongodb.CallTimeout, deletion{ID: id, DueAt: s.now().UTC()}, "mark file "+id+" as deleted")
	if errors.Is(err, mongodb.ErrExists) {
		return nil
	}
	return err
}

// IsDeleted reports whether the file with the given ID does not exist, or whether a function of the previous version is
// deleting it.
func (s *Store) IsDeleted(ctx context.Context, id string) (bool, error) {
	doc, err := s.document(ctx, id)
	if err != nil || !doc.live() {
		return err == nil, err
	}
	return s.markedByPrevious(ctx, id)
}

// markedByPrevious reports whether a function has marked the file as deleted for functions of the previous version.
func (s *Store) markedByPrevious(ctx context.Context, id string) (bool, error) {
	mark, err := mongodb.Read[deletion](ctx, s.db.Collection("deletions.tombstones"), id)
	return mark != nil, err
}

// ForgetDeletions deletes all documents in deletions.tombstones that were created before the given time.
func (s *Store) ForgetDeletions(ctx context.Context, before time.Time) error {
	_, err := mongodb.RemoveAll(ctx, s.db.Collection("deletions.tombstones"), bson.D{{Key: "buried_at", Value: bson.D{{Key: "$lt", Value: before.UTC()}}}})
	return err
}

// upgrade is the document in the upgrades collection that records the progress of the upgrade from the previous
// version.
type upgrade struct {
	ID string `bson:"_id"`
	// After is the ID of the last file that has been processed.
	After string `bson:"after"`
	Done  bool   `bson:"done"`
}

// Upgrade reports whether the upgrade from the previous version is done, and otherwise after which file it must
// continue.
func (s *Store) Upgrade(ctx context.Context) (after string, done bool, err error) {
	state, err := mongodb.Read[upgrade](ctx, s.db.Collection("upgrades"), "notes")
	if err != nil || state == nil {
		return "", false, err
	}
	return state.After, state.Done, nil
}

// SetUpgrade records the progress of the upgrade from the previous version.
func (s *Store) SetUpgrade(ctx context.Context, after string, done bool) error {
	return mongodb.Put(ctx, s.db.Collection("upgrades"), "notes", upgrade{"notes", after, done})
}
