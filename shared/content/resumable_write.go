package content

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Append adds the bytes of r to the upload with the given id, of which offset bytes must be there, and returns how many
// it added, also along with an error: what was added stays. It reads until the upload is complete or r ends; an error of
// r comes after the bytes before it have been added. Where another writer is faster it is problem.Conflict.
func (s *Store) Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error) {
	u, last, err := s.find(ctx, id)
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

// extend adds the bytes of r to the chain of u, which ends with last. The next piece is filled and summed while one is
// inserted, so that a stream takes two buffers and what the driver makes of one.
func (s *Store) extend(ctx context.Context, u Upload, last piece, r io.Reader) (added int64, err error) {
	file, err := uuid.Parse(u.ID)
	if err != nil {
		return 0, fmt.Errorf("the upload's id: %w", err)
	}
	sum, err := last.hash()
	if err != nil {
		return 0, err
	}
	var inserting chan error
	settle := func() error { // waits for the insert in flight
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
		_, _ = sum.Write(b[:n]) // never fails
		ended = failed != nil || end+int64(n) == u.Length
		if err := settle(); err != nil || n == 0 {
			s.buffers.Put(b)
			return added, errors.Join(err, unlessEOF(failed))
		}
		if last, err = last.next(file, n, sum); err != nil {
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
			done <- s.claim(ctx, file, u.Length, p, b)
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

// stillOpen returns an error if u was terminated while it was written to, and deletes what came after the deletion of its
// bytes.
func (s *Store) stillOpen(ctx context.Context, u Upload) error {
	open, err := s.opened(ctx, u.ID)
	if err != nil || open != nil && open.Length == u.Length {
		return err
	}
	if _, err := s.Get(ctx, u.ID); err == nil { // another writer was faster, up to the end
		return s.dropJournal(ctx, u.ID)
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	err = s.discard(context.WithoutCancel(ctx), u.ID)
	if open == nil { // else the seal has to stay, and the sweep takes the rest
		err = errors.Join(err, s.dropJournal(ctx, u.ID))
	}
	return errors.Join(errNoUpload, err)
}

// AppendVerified is Append for bytes whose digest must be want, by the algorithm of sum. It adds all of them or, where the
// digest is another one, none, and returns mismatch: until then they are kept as chunks of another file, which never gets
// a document.
func (s *Store) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error) {
	u, _, err := s.find(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Stored || u.Offset != offset {
		return 0, errTaken
	}
	staged, err := uuid.NewV7()
	if err != nil {
		return 0, fmt.Errorf("make an id: %w", err)
	}
	f := File{ID: staged.String(), Owner: u.Owner, chunkSize: chunkSize}
	// Its length is part of the upload's, which counts already.
	if err := s.open(ctx, openDocument{ID: f.ID, Owner: u.Owner}); err != nil {
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
		err = errors.Join(err, failed) // the sweep does it then
	}
	return added, err
}
