package content

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// freePieces and pieceSize limit the number of pieces (journal entries) per upload. An upload may have at most
	// freePieces pieces, plus one for each pieceSize bytes of its length. Without this limit, a client that sends only
	// a few bytes per request could fill the journal.
	freePieces = 10_000
	pieceSize  = 16 << 10
)

// piece is a document in the uploads.journal collection. It describes a contiguous range of bytes in an upload.
type piece struct {
	// ID consists of the file ID and the offset. The offset has leading zeros, so that the pieces of a file sort by
	// offset.
	ID     string `bson:"_id"`
	Offset int64  `bson:"offset"`
	Length int64  `bson:"length"`
	// Index is the number of pieces that precede this piece in the upload.
	Index int64 `bson:"index"`
	// Sum is the serialized state of the SHA-256 hash of all bytes up to the end of this piece.
	Sum []byte `bson:"sum"`
	// Apart reports whether the bytes of the piece are only in Data, because they have not been added to a chunk in
	// fs.chunks yet.
	Apart bool   `bson:"apart,omitempty"`
	Data  []byte `bson:"data,omitempty"`
}

func pieceID(file string, offset int64) string { return fmt.Sprintf("%s/%020d", file, offset) }

// end returns the offset of the first byte after the piece. The zero piece represents an empty chain, so its end is 0.
func (p piece) end() int64 { return p.Offset + p.Length }

// hash returns a SHA-256 hash that has already processed all bytes up to the end of the piece. To continue the
// hash, the caller can write the bytes that come after the piece to it.
func (p piece) hash() (hash.Hash, error) {
	sum := sha256.New()
	if p.end() == 0 {
		return sum, nil
	}
	if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.Sum); err != nil {
		return nil, fmt.Errorf("restore the SHA-256 state of journal entry %s: %w", p.ID, err)
	}
	return sum, nil
}

// next returns a new piece of the given length that follows p in the chain. sum must be a SHA-256 hash that has
// processed all bytes up to the end of the new piece.
func (p piece) next(file uuid.UUID, length int, sum hash.Hash) (piece, error) {
	state, err := sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return piece{}, fmt.Errorf("serialize the SHA-256 state: %w", err)
	}
	q := piece{ID: pieceID(file.String(), p.end()), Offset: p.end(), Length: int64(length), Sum: state}
	if p.end() > 0 {
		q.Index = p.Index + 1
	}
	return q, nil
}

// inChain returns a filter for all pieces of an upload from offset start up to, but not including, offset end.
func inChain(file string, start, end int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, start)}, {Key: "$lt", Value: pieceID(file, end)}}}}
}

// inJournal returns a filter for an upload's whole journal: the pieces and the seal, which records the upload's
// outcome.
func inJournal(file string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, 0)}, {Key: "$lte", Value: sealID(file)}}}}
}

// endsChunk reports whether a chunk ends at the given offset. The last chunk ends at length, the upload's size in
// bytes.
func endsChunk(offset, length int64) bool { return offset%chunkSize == 0 || offset == length }

// tail reads the last documents of an upload's journal. It returns the upload's last piece without its bytes, or the
// zero piece if the upload has no bytes. It also returns the outcome that the upload's seal records, or an empty string
// if the upload has no seal.
func (s *Store) tail(ctx context.Context, file string) (last piece, outcome string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cursor, err := s.journal.Find(ctx, inJournal(file), options.Find().SetSort(bson.D{{Key: "_id", Value: -1}}).SetLimit(2).
		SetProjection(bson.D{{Key: "data", Value: 0}}))
	if err != nil {
		return piece{}, "", mongodb.Problem(err, "read the journal of upload "+file)
	}
	var documents []struct {
		Piece piece  `bson:",inline"`
		By    string `bson:"by"`
	}
	if err := cursor.All(ctx, &documents); err != nil {
		return piece{}, "", mongodb.Problem(err, "read the journal of upload "+file)
	}
	for _, document := range documents {
		if document.By != "" {
			outcome = document.By
			continue
		}
		return document.Piece, outcome, nil
	}
	return piece{}, outcome, nil
}

// ensurePiece inserts the journal entry for piece p after the bytes of p have been stored in a chunk. It returns no
// error if another caller has already inserted the entry.
func (s *Store) ensurePiece(ctx context.Context, p piece) error {
	err := s.insertPiece(ctx, p)
	if errors.Is(err, errTaken) {
		return nil
	}
	return err
}

// insertPiece inserts piece p into the journal. It returns errTaken if the journal already has a piece at the same
// offset.
func (s *Store) insertPiece(ctx context.Context, p piece) error {
	// Ignore the cancellation of ctx, because after a canceled insert, it would be unknown whether the journal contains
	// the piece.
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
	defer cancel()
	_, err := s.journal.InsertOne(call, p)
	if mongo.IsDuplicateKeyError(err) {
		return errTaken
	}
	return mongodb.Problem(err, "insert journal entry "+p.ID)
}

// addPiece adds p to an upload as its next piece (range of bytes). It stores the bytes, which are at the start of b,
// and inserts the journal entry. The parameter length is the size of the whole upload in bytes. addPiece returns
// errTaken if the upload already has a piece at the same offset. If the upload has too many pieces, the error wraps
// problem.BadRequest.
func (s *Store) addPiece(ctx context.Context, file uuid.UUID, length int64, p piece, b *buffer) error {
	if p.Index > freePieces+length/pieceSize {
		return problem.BadRequest.With("the upload was split into too many small requests: send at least %d bytes per request", pieceSize)
	}
	if p.Offset%chunkSize != 0 {
		p.Apart, p.Data = true, b[:p.Length]
		if err := s.insertPiece(ctx, p); err != nil {
			return err
		}
		if endsChunk(p.end(), length) {
			return s.assemble(ctx, file, p.end())
		}
		return nil
	}
	n := int32(p.Offset / chunkSize)
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
	defer cancel()
	_, err := s.chunks.InsertOne(call, newChunk(file, n, b[:p.Length]))
	if mongo.IsDuplicateKeyError(err) {
		return errTaken
	}
	if err != nil {
		return mongodb.Problem(err, fmt.Sprintf("write chunk %d of upload %s", n, file))
	}
	return s.ensurePiece(ctx, p)
}

// assemble combines all pieces of the chunk that ends at the given offset, and replaces the short chunk in fs.chunks
// with the complete chunk. It then removes the bytes of the chunk's pieces from the journal. The caller must have
// inserted or read the chunk's last piece, so that all pieces of the chunk exist. assemble returns errTaken if the
// upload is already committed or if another caller is deleting the journal.
func (s *Store) assemble(ctx context.Context, file uuid.UUID, end int64) error {
	id := file.String()
	// Do not change a chunk of a committed upload, because the journal might contain wrong bytes. After the commit,
	// Finish deletes the journal, so a late writer can insert a piece at an offset that already has bytes in the file.
	// Before the commit, such an insert fails, because the journal still contains all original pieces.
	if _, err := s.Get(ctx, id); err == nil {
		return errTaken
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	n := (end - 1) / chunkSize
	start := n * chunkSize
	b := s.buffers.Get().(*buffer)
	defer s.buffers.Put(b)
	filled, err := s.gather(ctx, file, start, end, b[:])
	if err != nil || filled == 0 {
		return err
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
	defer cancel()
	if _, err := s.chunks.ReplaceOne(call, bson.D{{Key: "_id", Value: chunkID(file, int32(n))}}, newChunk(file, int32(n), b[:filled])); err != nil {
		return mongodb.Problem(err, fmt.Sprintf("assemble chunk %d of upload %s", n, id))
	}
	bare := bson.D{{Key: "$unset", Value: bson.D{{Key: "apart", Value: ""}, {Key: "data", Value: ""}}}}
	_, err = s.journal.UpdateMany(call, inChain(id, start, end), bare)
	return mongodb.Problem(err, "remove bytes from the journal of upload "+id)
}

// gather copies the bytes of all pieces from offset start to offset end into buf, and returns the number of bytes that
// it copied. start must be a multiple of chunkSize. gather returns 0 if another caller has already assembled the chunk.
// If pieces are missing, another caller is deleting the journal, so gather returns errTaken.
func (s *Store) gather(ctx context.Context, file uuid.UUID, start, end int64, buf []byte) (filled int, err error) {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	cursor, err := s.journal.Find(ctx, inChain(file.String(), start, end), options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return 0, mongodb.Problem(err, "read the journal of upload "+file.String())
	}
	defer cursor.Close(context.WithoutCancel(ctx)) // an error here does not affect the result
	for cursor.Next(ctx) {
		var p piece
		if err := cursor.Decode(&p); err != nil {
			return 0, fmt.Errorf("decode a piece of upload %s: %w", file, err)
		}
		switch {
		case p.Offset != start+int64(filled) || p.end() > end: // another caller is deleting the journal
			return 0, errTaken
		case filled == 0:
			if p.Data, err = s.chunk(ctx, file, start/chunkSize); err != nil {
				return 0, err
			}
			if p.Data == nil { // another caller is deleting the upload
				return 0, errTaken
			}
		case !p.Apart:
			return 0, nil
		}
		if int64(len(p.Data)) < p.Length {
			return 0, fmt.Errorf("upload %s is corrupt: the piece at offset %d has %d bytes, want %d", file, p.Offset, len(p.Data), p.Length)
		}
		filled += copy(buf[filled:], p.Data[:p.Length])
	}
	if err := cursor.Err(); err != nil {
		return 0, mongodb.Problem(err, "read the journal of upload "+file.String())
	}
	if start+int64(filled) != end {
		return 0, errTaken
	}
	return filled, nil
}
