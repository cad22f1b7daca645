package content

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// IDsOfChunks reads a page of up to limit chunks. It returns the IDs of the files and uploads to which these chunks
// belong, in ascending order, and the value of "after" for the next page. For the first page, pass an empty string.
// After the last page, next is empty.
func (s *Store) IDsOfChunks(ctx context.Context, after string, limit int) (ids []string, next string, err error) {
	chunks, err := mongodb.List[chunkDocument](ctx, s.chunks, bson.D{{Key: "files_id", Value: bson.D{{Key: "$gt", Value: after}}}}, "files_id", limit,
		options.Find().SetProjection(bson.D{{Key: "files_id", Value: 1}, {Key: "_id", Value: 0}}))
	for _, chunk := range chunks {
		if next != chunk.FilesID {
			ids = append(ids, chunk.FilesID)
		}
		next = chunk.FilesID
	}
	return ids, next, err
}

// IDsOfJournals does the same as IDsOfChunks for the entries of journals.
func (s *Store) IDsOfJournals(ctx context.Context, after string, limit int) (ids []string, next string, err error) {
	if after != "" {
		after += "/~" // sorts after all entries of the journal
	}
	pieces, err := mongodb.List[piece](ctx, s.journal, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}}, "_id", limit,
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	for _, p := range pieces {
		id, _, _ := strings.Cut(p.ID, "/")
		if next != id {
			ids = append(ids, id)
		}
		next = id
	}
	return ids, next, err
}

// Known returns the set of those of the given IDs that belong to a file, to a deleted file, or to an upload that was
// ended.
func (s *Store) Known(ctx context.Context, ids []string) (known map[string]bool, err error) {
	existing, err := mongodb.Existing(ctx, s.files, ids)
	known = make(map[string]bool, len(existing))
	for _, id := range existing {
		known[id] = true
	}
	return known, err
}

// Check reports whether a note or a deletion record has the given ID, and whether a file has it. If none of them has
// the ID, chunks and journals with the ID do not belong to anything.
func (s *Store) Check(ctx context.Context, id string) (noted, stored bool, err error) {
	// Read the note before the file. In the reverse order, Check would find neither of them if the upload became a file
	// and its note was deleted between the two queries.
	note, err := s.Notes.Note(ctx, id)
	if err != nil {
		return false, false, err
	}
	d, err := mongodb.Read[deletion](ctx, s.deletions, id)
	if err != nil {
		return false, false, err
	}
	doc, err := s.document(ctx, id)
	return note != nil || d != nil, doc.live(), err
}
