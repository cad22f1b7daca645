package content

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Append adds bytes from r to an upload until the upload is complete or r ends. It returns the number of added
// bytes, even if it returns an error. The error wraps problem.Conflict if the offset is wrong, or if another
// writer adds bytes at this offset first.
func (s *Store) Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error) {
	u, last, err := s.load(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Stored || u.Offset != offset {
		return 0, errTaken
	}
	added, err := s.extend(ctx, u, last, r)
	if gone := s.stillOpen(ctx, u); gone != nil {
		return added, errors.Join(gone, err)
	}
	return added, err
}

// extend adds the bytes of r to the upload u as new pieces (ranges of bytes). The caller passes the last existing
// piece of u.
func (s *Store) extend(ctx context.Context, u Upload, last piece, r io.Reader) (added int64, err error) {
	sum, err := last.hash()
	if err != nil {
		return 0, err
	}
	var inserting chan error
	settle := func() error { // waits for the insert in flight, updates added, and returns the insert's error
		if inserting == nil {
			return nil
		}
		err := <-inserting
		inserting = nil
		if err == nil {
			added += last.Length
		}
		return err
	}
	for ended := false; !ended; {
		b := s.buffers.Get().(*buffer)
		end := last.end()
		room := min(chunkSize-end%chunkSize, u.Length-end)
		// If r returns an error, still add the bytes that it returned before the error.
		n, failed := fill(r, b[:room])
		_, _ = sum.Write(b[:n]) // hash.Hash.Write never returns an error
		ended = failed != nil || end+int64(n) == u.Length
		if err := settle(); err != nil || n == 0 {
			s.buffers.Put(b)
			return added, errors.Join(err, unlessEOF(failed))
		}
		if last, err = last.next(u.id, n, sum); err != nil {
			s.buffers.Put(b)
			return added, err
		}
		// Insert the piece in a goroutine, so that the loop can read and hash the next piece at the same time. An
		// upload therefore uses the memory of two buffers, plus the driver's copies of one buffer.
		inserting = make(chan error, 1)
		s.slots <- struct{}{}
		go func(p piece, done chan<- error) {
			defer func() {
				s.buffers.Put(b)
				<-s.slots
			}()
			done <- s.addPiece(ctx, u.id, u.Length, p, b)
		}(last, inserting)
		if ended {
			return added, errors.Join(settle(), unlessEOF(failed))
		}
		if err := ctx.Err(); err != nil {
			return added, errors.Join(settle(), fmt.Errorf("write upload %s: %w", u.ID, err))
		}
	}
	return added, nil
}

func unlessEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// stillOpen checks whether the upload u was terminated or discarded during a write. If so, it deletes the upload's
// chunks and returns an error that wraps problem.NotFound. Call stillOpen after each write.
func (s *Store) stillOpen(ctx context.Context, u Upload) error {
	open, err := s.uploadRecord(ctx, u.ID)
	if err != nil || open != nil && open.Length == u.Length {
		return err
	}
	if _, err := s.Get(ctx, u.ID); err == nil {
		// Another request has turned the upload into a file, so delete the journal entries that the write added.
		return s.dropJournal(ctx, u.ID)
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	err = s.deleteChunks(context.WithoutCancel(ctx), u.ID)
	if open == nil { // u was discarded, so its journal is no longer needed; a terminated upload still needs its journal
		err = errors.Join(err, s.dropJournal(ctx, u.ID))
	}
	return errors.Join(errNoUpload, err)
}

// AppendVerified is like Append, but it first uses the sum hash to verify the digest of the bytes. If the digest
// differs from the expected digest, AppendVerified adds no bytes and returns the caller's mismatch error.
func (s *Store) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error) {
	u, _, err := s.load(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Stored || u.Offset != offset {
		return 0, errTaken
	}
	// Until the digest is verified, store the bytes only as chunks of a temporary file, which never gets a document in
	// fs.files.
	staged, err := uuid.NewV7()
	if err != nil {
		return 0, fmt.Errorf("generate an ID for a temporary file: %w", err)
	}
	f := File{Info: file.Info{ID: staged.String(), Owner: u.Owner}, chunkSize: chunkSize}
	// The length in the temporary file's upload record is 0, because Usage already counts the full length of u.
	if err := s.begin(ctx, uploadDocument{ID: f.ID, Owner: u.Owner}); err != nil {
		return 0, err
	}
	added, err := func() (int64, error) {
		if err := s.writeChunks(ctx, staged, &f, io.TeeReader(io.LimitReader(r, u.Length-offset), sum)); err != nil {
			return 0, err
		}
		if subtle.ConstantTimeCompare(sum.Sum(nil), want) == 0 {
			return 0, mismatch
		}
		return s.Append(ctx, id, offset, s.Reader(ctx, f))
	}()
	if failed := s.Discard(context.WithoutCancel(ctx), f.ID); failed != nil {
		err = errors.Join(err, failed) // sweep deletes the temporary file later
	}
	return added, err
}
