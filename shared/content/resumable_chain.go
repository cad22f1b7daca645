package content

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
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
	// freePieces is how many pieces any upload may have, and pieceSize how many of its bytes allow it one more: a client
	// that sends a few bytes a request would otherwise fill the journal.
	freePieces = 10_000
	pieceSize  = 16 << 10
)

// piece is a document of uploads.journal: a stretch of an upload's bytes.
type piece struct {
	// ID is made of the file's id and the offset, in digits that sort as the number does.
	ID     string `bson:"_id"`
	Offset int64  `bson:"offset"`
	Length int64  `bson:"length"`
	// Index counts the pieces before this one.
	Index int64 `bson:"index"`
	// Sum is the marshalled state of the SHA-256 after this piece.
	Sum []byte `bson:"sum"`
	// Apart tells that the bytes are in Data and not in their chunk yet.
	Apart bool   `bson:"apart,omitempty"`
	Data  []byte `bson:"data,omitempty"`
}

func pieceID(file string, offset int64) string { return fmt.Sprintf("%s/%020d", file, offset) }

// end is the offset of what follows the piece; 0 for the zero piece, which stands before the first.
func (p piece) end() int64 { return p.Offset + p.Length }

// hash returns the SHA-256 of all bytes up to the end of the piece, for more to be written to.
func (p piece) hash() (hash.Hash, error) {
	sum := sha256.New()
	if p.end() == 0 {
		return sum, nil
	}
	if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.Sum); err != nil {
		return nil, fmt.Errorf("the journal has a broken SHA-256 in %s: %w", p.ID, err)
	}
	return sum, nil
}

// next returns the piece of the given length that follows p, after which sum is the SHA-256 of all bytes.
func (p piece) next(file uuid.UUID, length int, sum hash.Hash) (piece, error) {
	state, err := sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return piece{}, fmt.Errorf("marshal a SHA-256: %w", err)
	}
	q := piece{ID: pieceID(file.String(), p.end()), Offset: p.end(), Length: int64(length), Sum: state}
	if p.end() > 0 {
		q.Index = p.Index + 1
	}
	return q, nil
}

// inChain is a filter for the pieces of a file from one offset to before another.
func inChain(file string, from, to int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, from)}, {Key: "$lt", Value: pieceID(file, to)}}}}
}

// inJournal is a filter for all that the journal has of a file: the pieces and then the seal.
func inJournal(file string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, 0)}, {Key: "$lte", Value: sealID(file)}}}}
}

// endsChunk tells whether an offset is the end of a chunk of an upload.
func endsChunk(offset, length int64) bool { return offset%chunkSize == 0 || offset == length }

// tail returns the last piece of a chain, without its bytes, and what its seal says. Where there is none, they are zero.
func (s *Store) tail(ctx context.Context, file string) (last piece, seal string, err error) {
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
			seal = document.By
			continue
		}
		return document.Piece, seal, nil
	}
	return piece{}, seal, nil
}

// note inserts a piece into the journal whose bytes are in their chunk. That anybody else has done so is fine.
func (s *Store) note(ctx context.Context, p piece) error {
	err := s.enter(ctx, p)
	if errors.Is(err, errTaken) {
		return nil
	}
	return err
}

// enter inserts a piece into the journal, or returns errTaken.
func (s *Store) enter(ctx context.Context, p piece) error {
	// Not cancelled with ctx: an insert that has been sent should be heard of.
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
	defer cancel()
	_, err := s.journal.InsertOne(call, p)
	if mongo.IsDuplicateKeyError(err) {
		return errTaken
	}
	return mongodb.Problem(err, "write the journal of "+p.ID)
}

// claim inserts the piece p, whose bytes stand at the start of b, and so adds it to its chain, or returns errTaken.
func (s *Store) claim(ctx context.Context, file uuid.UUID, length int64, p piece, b *buffer) error {
	if p.Index > freePieces+length/pieceSize {
		return problem.BadRequest.With("the upload comes in too small pieces: send more than %d bytes a request", pieceSize)
	}
	if p.Offset%chunkSize != 0 {
		p.Apart, p.Data = true, b[:p.Length]
		if err := s.enter(ctx, p); err != nil {
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
	return s.note(ctx, p)
}

// assemble replaces the chunk that ends at end by the whole of its pieces, and takes their bytes out of the journal. It
// must be called after the last of these pieces was inserted or read.
func (s *Store) assemble(ctx context.Context, file uuid.UUID, end int64) error {
	id := file.String()
	// The journal of a file that is committed gets deleted, and then even a writer that is long behind can have its
	// claim. Such a claim comes after the files document; while there is none, the chain is what it always was.
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
		return mongodb.Problem(err, fmt.Sprintf("complete chunk %d of upload %s", n, id))
	}
	bare := bson.D{{Key: "$unset", Value: bson.D{{Key: "apart", Value: ""}, {Key: "data", Value: ""}}}}
	_, err = s.journal.UpdateMany(call, inChain(id, start, end), bare)
	return mongodb.Problem(err, "take bytes out of the journal of upload "+id)
}

// gather fills buf with the bytes of the pieces from start, the start of a chunk, to end, and returns how many they are:
// none if somebody else has put the chunk together before.
func (s *Store) gather(ctx context.Context, file uuid.UUID, start, end int64, buf []byte) (filled int, err error) {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	cursor, err := s.journal.Find(ctx, inChain(file.String(), start, end), options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return 0, mongodb.Problem(err, "read the journal of upload "+file.String())
	}
	defer cursor.Close(context.WithoutCancel(ctx)) // nothing can be done about an error
	for cursor.Next(ctx) {
		var p piece
		if err := cursor.Decode(&p); err != nil {
			return 0, fmt.Errorf("decode a piece of upload %s: %w", file, err)
		}
		switch {
		case p.Offset != start+int64(filled) || p.end() > end: // the journal is being deleted
			return 0, errTaken
		case filled == 0:
			if p.Data, err = s.chunk(ctx, file, start/chunkSize); err != nil {
				return 0, mongodb.Problem(err, "read a chunk of upload "+file.String())
			}
		case !p.Apart:
			return 0, nil
		}
		if int64(len(p.Data)) < p.Length {
			return 0, fmt.Errorf("upload %s is broken: at %d there are %d bytes, not %d", file, p.Offset, len(p.Data), p.Length)
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

// digest returns the SHA-256 of all bytes up to the end of the piece, in lower-case hex.
func (p piece) digest() (string, error) {
	sum, err := p.hash()
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
