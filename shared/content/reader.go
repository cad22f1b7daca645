package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/uuid"
)

var errClosed = errors.New("the file reader is closed")

// Reader returns a reader for the bytes of f. The reader's queries use ctx. f must be a File that a Store method
// returned, because only Store methods set the chunk size. If a caller reads the whole file from start to end, and the
// SHA-256 of the bytes is wrong, the reader returns an error instead of the bytes of the last chunk.
func (s *Store) Reader(ctx context.Context, f File) io.ReadSeekCloser {
	r := &chunkReader{ctx: ctx, s: s, f: f, sum: sha256.New()}
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(r, 0, f.Size), r}
}

// chunkReader implements io.ReaderAt for a stored file. Do not call ReadAt concurrently, because all calls share the
// loaded chunk.
type chunkReader struct {
	ctx    context.Context
	s      *Store
	f      File
	number int64  // the index of the chunk whose bytes are in data
	data   []byte // the bytes of the loaded chunk; empty if no chunk is loaded
	closed bool
	sum    hash.Hash // the SHA-256 hash of the first chunks
	hashed int64     // the number of chunks in sum
}

// ReadAt implements io.ReaderAt. The range to read must lie within the file.
func (r *chunkReader) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		at := offset + int64(n)
		number := at / int64(r.f.chunkSize)
		if len(r.data) == 0 || r.number != number {
			if r.data, err = r.fetch(number); err != nil {
				return n, err
			}
			r.number = number
		}
		n += copy(p[n:], r.data[at-number*int64(r.f.chunkSize):])
	}
	return n, nil
}

// fetch returns the bytes of chunk n.
func (r *chunkReader) fetch(n int64) ([]byte, error) {
	if r.closed {
		return nil, errClosed
	}
	file, err := uuid.Parse(r.f.ID)
	if err != nil || n >= 1<<24 {
		return nil, fmt.Errorf("read file %s: the file was not written by Strongroom", r.f.ID)
	}
	data, err := r.s.chunk(r.ctx, file, n)
	if err != nil {
		return nil, err
	}
	// Detect a missing or short chunk, so that a caller cannot mistake a truncated file for a complete one.
	if want := min(int64(r.f.chunkSize), r.f.Size-n*int64(r.f.chunkSize)); int64(len(data)) != want {
		return nil, fmt.Errorf("file %s is corrupt: chunk %d is missing or has the wrong length: got %d bytes, want %d", r.f.ID, n, len(data), want)
	}
	if n == r.hashed {
		_, _ = r.sum.Write(data) // hash.Hash.Write never returns an error
		r.hashed++
		if got := hex.EncodeToString(r.sum.Sum(nil)); r.hashed*int64(r.f.chunkSize) >= r.f.Size && got != r.f.SHA256 {
			return nil, fmt.Errorf("file %s is corrupt: got the SHA-256 %s, want %s", r.f.ID, got, r.f.SHA256)
		}
	}
	return data, nil
}

// Close implements io.Closer. It releases the loaded chunk. After Close, ReadAt returns errClosed.
func (r *chunkReader) Close() error {
	r.closed, r.data = true, nil
	return nil
}
