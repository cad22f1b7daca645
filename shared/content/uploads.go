package content

import (
	"context"
	"maps"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// CloseNote deletes the note of a file, and the journal if the file comes from a resumable upload. Call it only after
// the file's catalog entry exists. Afterward, the sweep function does not publish the file's event again.
func (s *Store) CloseNote(ctx context.Context, id string) error {
	note, err := s.Notes.Note(ctx, id)
	if err != nil || note == nil {
		return err
	}
	if note.Tus != nil {
		if err := s.DropJournal(ctx, id); err != nil {
			return err
		}
	}
	return s.Notes.Remove(ctx, id)
}

// Discard ends an upload that is not a file, and deletes its data. If the upload is already a file, the error wraps
// problem.Conflict.
func (s *Store) Discard(ctx context.Context, id string) error {
	if err := s.end(ctx, id); err != nil {
		return err
	}
	return s.purge(ctx, id)
}

// Usage returns the owner's storage usage in bytes. It adds up the sizes of the owner's files and the declared sizes of
// the owner's uploads in progress. Uploads without a declared size do not count.
func (s *Store) Usage(ctx context.Context, owner string) (usage int64, err error) {
	notes, err := s.Notes.Owned(ctx, owner)
	if err != nil {
		return 0, err
	}
	declared := map[string]int64{}
	for _, note := range notes {
		declared[note.ID] = note.Length
	}
	ids := slices.AppendSeq([]string{}, maps.Keys(declared)) // not nil, which $in does not accept
	// Find out which uploads are files before adding up the files. An upload that becomes a file between the two
	// queries is counted twice. In the reverse order, it would not be counted.
	ended, err := mongodb.List[fileDocument](ctx, s.files, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, "_id", 0,
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return 0, err
	}
	for _, doc := range ended {
		delete(declared, doc.ID)
	}
	for _, length := range declared {
		usage += length
	}
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	files, err := s.files.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "metadata.owner", Value: owner}}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: nil}, {Key: "bytes", Value: bson.D{{Key: "$sum", Value: "$length"}}}}}},
	})
	var sums []struct {
		Bytes int64 `bson:"bytes"`
	}
	if err == nil {
		err = files.All(ctx, &sums)
	}
	for _, sum := range sums { // sums is empty if the user has no files
		usage += sum.Bytes
	}
	return usage, mongodb.Problem(err, "add up the file sizes for user "+owner)
}
