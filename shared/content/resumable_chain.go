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
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// freePieces and pieceSize limit the number of pieces (journal entries) per upload. After its first piece, an
	// upload may have at most freePieces more pieces, plus one piece per pieceSize bytes that have arrived. Without
	// this limit, a client could fill the journal with tiny requests. A client that exceeds the limit can continue with
	// larger requests.
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
	// Apart reports whether the bytes of the piece are stored in Data and not yet in fs.chunks.
	Apart bool   `bson:"apart,omitempty"`
	Data  []byte `bson:"data,omitempty"`
}

func pieceID(file string, offset int64) string { return fmt.Sprintf("%s/%020d", file, offset) }

// end returns the offset of the first byte after the piece. The zero piece represents an empty upload, so end returns
// 0 for the zero piece.
func (p piece) end() int64 { return p.Offset + p.Length }

// hash returns a SHA-256 hash that has processed all bytes up to the end of the piece.
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

// next returns the piece that follows p. The sum parameter must be a SHA-256 hash that has processed all bytes up to
// the end of the new piece.
func (p piece) next(file uuid.UUID, length int, sum hash.Hash) (piece, error) {
	state, err := sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return piece{}, fmt.Errorf("serialize the SHA-256 state of upload %s: %w", file, err)
	}
	q := piece{ID: pieceID(file.String(), p.end()), Offset: p.end(), Length: int64(length), Sum: state}
	if p.end() > 0 {
		q.Index = p.Index + 1
	}
	return q, nil
}

// inChain returns a filter for an upload's pieces at offsets between start (inclusive) and end (exclusive).
func inChain(file string, start, end int64) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, start)}, {Key: "$lt", Value: pieceID(file, end)}}}}
}

// inJournal returns a filter for an upload's whole journal.
func inJournal(file string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: pieceID(file, 0)}, {Key: "$lte", Value: file + "/end"}}}}
}

// endsChunk reports whether a chunk ends at the given offset. The last chunk ends at length, the upload's size in
// bytes.
func endsChunk(offset, length int64) bool { return offset%chunkSize == 0 || offset == length }

// tail reads the last piece of an upload (without its bytes) from the journal. The piece is zero if the journal
// contains no pieces. sealed reports whether the previous version of Strongroom has ended the upload. The previous
// version recorded this in the last document of the journal.
func (s *Store) tail(ctx context.Context, file string) (last piece, sealed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, mongodb.CallTimeout)
	defer cancel()
	var documents []struct {
		Piece piece  `bson:",inline"`
		By    string `bson:"by"`
	}
	cursor, err := s.journal.Find(ctx, inJournal(file), options.Find().SetSort(bson.D{{Key: "_id", Value: -1}}).SetLimit(2).
		SetProjection(bson.D{{Key: "data", Value: 0}}))
	if err == nil {
		err = cursor.All(ctx, &documents)
	}
	if err != nil {
		return piece{}, false, mongodb.Problem(err, "read the journal of upload "+file)
	}
	for _, document := range documents {
		if document.By == "" {
			return document.Piece, sealed, nil
		}
		sealed = document.By != "complete"
	}
	return piece{}, sealed, nil
}

// insertPiece inserts piece p into the journal. It returns errTaken if the journal already has a piece at the same
// offset.
func (s *Store) insertPiece(ctx context.Context, p piece) error {
	return taken(mongodb.Insert(ctx, s.journal, chunkTimeout, p, "insert journal entry "+p.ID))
}

// taken converts mongodb.ErrExists to errTaken.
func taken(err error) error {
	if errors.Is(err, mongodb.ErrExists) {
		return errTaken
	}
	return err
}

// addPiece adds the piece p (a range of bytes) to an upload of the given length. The bytes of p are at the start
// of b. The error is errTaken if the upload already has a piece at the same offset.
func (s *Store) addPiece(ctx context.Context, file uuid.UUID, length int64, p piece, b *buffer) error {
	if p.Index > freePieces+p.end()/pieceSize {
		return problem.BadRequest.With("the upload was split into too many small requests: send at least %d bytes per request", pieceSize)
	}
	if p.Offset%chunkSize != 0 {
		// The piece starts inside a chunk, so its bytes stay in the journal until the chunk is complete.
		p.Apart, p.Data = true, b[:p.Length]
		if err := s.insertPiece(ctx, p); err != nil {
			return err
		}
		if endsChunk(p.end(), length) {
			return s.assemble(ctx, file, p.end())
		}
		return nil
	}
	// The piece starts at a chunk boundary, so insert its bytes as a new chunk, even if they do not fill the
	// chunk. If the writer is killed before it inserts the journal entry, repair inserts the entry.
	n := int32(p.Offset / chunkSize)
	if err := mongodb.Insert(ctx, s.chunks, chunkTimeout, newChunk(file, n, b[:p.Length]), fmt.Sprintf("write chunk %d of upload %s", n, file)); err != nil {
		return taken(err)
	}
	if err := s.insertPiece(ctx, p); !errors.Is(err, errTaken) {
		return err
	}
	return nil // another caller has repaired the upload
}

// assemble completes the chunk that ends at the given offset. It moves the chunk's remaining bytes from the
// journal to fs.chunks. It returns errTaken if the upload is committed or its journal is being deleted.
func (s *Store) assemble(ctx context.Context, file uuid.UUID, end int64) error {
	id := file.String()
	// Do not copy bytes from the journal to a committed file, because they can be wrong. After the file's journal has
	// been deleted, a late writer can add different bytes at the same offset. Before that, the writer's insert fails,
	// because the journal still contains the original piece.
	if _, err := s.Get(ctx, id); err == nil {
		return errTaken
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	n := (end - 1) / chunkSize
	start := n * chunkSize
	b := s.buffers.Get().(*buffer)
	defer s.buffers.Put(b)
	// All pieces of the chunk exist, unless another caller is deleting the journal, because the caller has already
	// inserted or read the chunk's last piece.
	filled, err := s.gather(ctx, file, start, end, b[:])
	if err != nil || filled == 0 {
		return err
	}
	// Several callers can replace the bytes at the same time, because all of them write the same bytes.
	complete := bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: b[:filled]}}}}
	if err := mongodb.Update(ctx, s.chunks, chunkTimeout, inFile(file, n), complete); err != nil {
		return fmt.Errorf("assemble chunk %d of upload %s: %w", n, id, err)
	}
	bare := bson.D{{Key: "$unset", Value: bson.D{{Key: "apart", Value: ""}, {Key: "data", Value: ""}}}}
	if err := mongodb.UpdateAll(ctx, s.journal, inChain(id, start, end), bare); err != nil {
		return fmt.Errorf("remove bytes from the journal of upload %s: %w", id, err)
	}
	return nil
}

// gather copies the bytes of a chunk's pieces into buf and returns the number of copied bytes. The number is 0 if
// another caller has already assembled the chunk. If pieces are missing, the error is errTaken.
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
			return 0, fmt.Errorf("decode a journal entry of upload %s: %w", file, err)
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
	if start+int64(filled) != end { // another caller is deleting the journal
		return 0, errTaken
	}
	return filled, nil
}
