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

// Append adds the bytes of r to the upload with the given ID. It reads until the upload is complete or r ends. If r
// returns an error, Append first adds the bytes that it read before the error. Append returns the number of bytes that
// it added, even if it also returns an error, because the added bytes remain.
//
// offset must be the upload's current offset. If it is not, or if another writer adds bytes at the same offset first,
// the error wraps problem.Conflict.
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

// extend adds the bytes of r to the upload u as new pieces. The parameter last is the last piece (range of bytes) that
// u already has. While extend inserts one piece, it reads and hashes the next piece. An upload therefore uses the
// memory of two buffers plus the driver's copies of one buffer.
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

// stillOpen checks, after a write to the upload u, whether another request ended u during the write. If u was
// terminated or discarded, stillOpen deletes the chunks that the write added, and returns an error that wraps
// problem.NotFound. If u has become a file whose event is confirmed, stillOpen deletes the journal entries that the
// write added, and returns no error.
func (s *Store) stillOpen(ctx context.Context, u Upload) error {
	open, err := s.uploadRecord(ctx, u.ID)
	if err != nil || open != nil && open.Length == u.Length {
		return err
	}
	if _, err := s.Get(ctx, u.ID); err == nil { // another request has turned the upload into a file
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

// AppendVerified is like Append, but it adds the bytes of r only if their digest is correct. The parameter sum is the
// hash that computes the digest, and the parameter want is the expected digest. If the digests differ, AppendVerified
// adds no bytes and returns mismatch, an error that the caller chooses. AppendVerified first stores the bytes as chunks
// of a temporary file, which never gets a document in fs.files. It copies the bytes to the upload after it has verified
// the digest.
func (s *Store) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error) {
	u, _, err := s.load(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Stored || u.Offset != offset {
		return 0, errTaken
	}
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
