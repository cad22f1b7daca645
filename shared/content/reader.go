package content

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// errClosed is returned by a Reader after Close.
var errClosed = errors.New("the reader of a file is closed")

// Reader reads a file, from anywhere in it, with one chunk in memory. A chunk that is missing or has the wrong length
// is an error: what Read returns before io.EOF is the whole of the file.
type Reader struct {
	ctx    context.Context
	s      *Store
	f      File
	offset int64
	number int64  // of the chunk in data
	data   []byte // empty: none is there
	closed bool
}

// Reader returns a reader of f, which must come from Get or Put. Reads end with ctx.
func (s *Store) Reader(ctx context.Context, f File) *Reader {
	return &Reader{ctx: ctx, s: s, f: f}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	switch {
	case r.closed:
		return 0, errClosed
	case r.offset >= r.f.Size:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	number := r.offset / int64(r.f.chunkSize)
	if len(r.data) == 0 || r.number != number {
		data, err := r.fetch(number)
		if err != nil {
			return 0, err
		}
		r.number, r.data = number, data
	}
	n := copy(p, r.data[r.offset-number*int64(r.f.chunkSize):])
	r.offset += int64(n)
	return n, nil
}

// Seek implements io.Seeker. It may go beyond the end, where Read returns io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.f.Size
	default:
		return 0, fmt.Errorf("seek in file %s: whence %d is unknown", r.f.ID, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek in file %s: %d is before its start", r.f.ID, offset)
	}
	r.offset = offset
	return offset, nil
}

// Close lets go of the chunk in memory.
func (r *Reader) Close() error {
	r.closed = true
	r.data = nil
	return nil
}

// fetch returns the bytes of chunk n. It asks for each chunk by itself, not through a cursor: a slow client then holds
// nothing in the server, and a server that restarts in between does no harm.
func (r *Reader) fetch(n int64) ([]byte, error) {
	file, err := uuid.Parse(r.f.ID)
	if err != nil || n >= 1<<24 {
		return nil, fmt.Errorf("file %s was not written by Strongroom", r.f.ID)
	}
	ctx, cancel := context.WithTimeout(r.ctx, chunkTimeout)
	defer cancel()
	raw, err := r.s.chunks.FindOne(ctx, bson.D{{Key: "_id", Value: chunkID(file, int32(n))}}).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, fmt.Errorf("file %s is broken: chunk %d is missing", r.f.ID, n)
	}
	if err != nil {
		return nil, mongodb.Problem(err, fmt.Sprintf("read chunk %d of file %s", n, r.f.ID))
	}
	owner, _ := raw.Lookup("files_id").StringValueOK()
	number, _ := raw.Lookup("n").AsInt64OK()
	_, data, _ := raw.Lookup("data").BinaryOK()
	want := min(int64(r.f.chunkSize), r.f.Size-n*int64(r.f.chunkSize))
	if owner != r.f.ID || number != n || int64(len(data)) != want {
		return nil, fmt.Errorf("file %s is broken: in place of its chunk %d of %d bytes there is chunk %d of file %q with %d bytes",
			r.f.ID, n, want, number, owner, len(data))
	}
	return data, nil
}
