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

var errClosed = errors.New("the file reader is closed")

// Reader implements io.ReadSeekCloser for a stored file. It holds at most one chunk in memory. If a chunk is missing
// or has the wrong length, Read returns an error, so that a caller cannot mistake a truncated file for a complete
// file.
type Reader struct {
	ctx    context.Context
	s      *Store
	f      File
	offset int64
	number int64  // the index of the chunk whose bytes are in data
	data   []byte // the bytes of the loaded chunk; empty if no chunk is loaded
	closed bool
}

// Reader returns a reader for the bytes of f. f must come from a method of Store, such as Get or Put, because only
// these methods set the chunk size. The reader's queries use ctx, so they fail after ctx is canceled.
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

// Seek implements io.Seeker. If the new offset is past the end of the file, Read returns io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.f.Size
	default:
		return 0, fmt.Errorf("seek in file %s: invalid whence %d", r.f.ID, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek in file %s: negative offset %d", r.f.ID, offset)
	}
	r.offset = offset
	return offset, nil
}

// Close implements io.Closer. It releases the chunk in memory. After Close, Read returns an error.
func (r *Reader) Close() error {
	r.closed = true
	r.data = nil
	return nil
}

// fetch returns the bytes of chunk n. It reads each chunk with a separate query and does not keep a cursor open, so
// that a slow client holds no resources on the database server, and the server can restart between two queries.
func (r *Reader) fetch(n int64) ([]byte, error) {
	file, err := uuid.Parse(r.f.ID)
	if err != nil || n >= 1<<24 {
		return nil, fmt.Errorf("read file %s: the file was not written by Strongroom", r.f.ID)
	}
	ctx, cancel := context.WithTimeout(r.ctx, chunkTimeout)
	defer cancel()
	raw, err := r.s.chunks.FindOne(ctx, bson.D{{Key: "_id", Value: chunkID(file, int32(n))}}).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, fmt.Errorf("file %s is corrupt: chunk %d is missing", r.f.ID, n)
	}
	if err != nil {
		return nil, mongodb.Problem(err, fmt.Sprintf("read chunk %d of file %s", n, r.f.ID))
	}
	owner, _ := raw.Lookup("files_id").StringValueOK()
	number, _ := raw.Lookup("n").AsInt64OK()
	_, data, _ := raw.Lookup("data").BinaryOK()
	want := min(int64(r.f.chunkSize), r.f.Size-n*int64(r.f.chunkSize))
	if owner != r.f.ID || number != n || int64(len(data)) != want {
		return nil, fmt.Errorf("file %s is corrupt: want chunk %d with %d bytes, got chunk %d of file %q with %d bytes",
			r.f.ID, n, want, number, owner, len(data))
	}
	return data, nil
}
