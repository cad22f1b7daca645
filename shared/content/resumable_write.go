package content

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strongroom-dev/strongroom/shared/file"
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
	checked := last.end() // the offset at which the end of the upload was last checked
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
		if last, err = last.next(u.id, n, sum); err == nil && last.end() == u.Length {
			// Make the note due, so that the sweep function completes the upload if this process is killed before the
			// commit.
			err = s.Notes.Postpone(ctx, u.ID, s.now())
		}
		if err != nil {
			s.buffers.Put(b)
			return added, err
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			s.buffers.Put(b)
			return added, fmt.Errorf("write upload %s: %w", u.ID, ctx.Err())
		}
		// Insert the piece in a goroutine, so that the loop can read and hash the next piece at the same time. An
		// upload therefore uses the memory of two buffers, plus the driver's copies of one buffer.
		inserting = make(chan error, 1)
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
		// If the upload was ended, stop soon, because the owner's usage no longer contains the upload.
		if last.end()-checked >= reservedAtOnce {
			checked = last.end()
			if doc, err := s.document(ctx, u.ID); err != nil || doc != nil {
				return added, errors.Join(settle(), err)
			}
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

// stillOpen checks whether the upload u was ended during a write. If so, it deletes the bytes that the write might have
// added after the end. The error wraps problem.Conflict if the upload has become a file, and otherwise
// problem.NotFound. Call stillOpen after each write.
func (s *Store) stillOpen(ctx context.Context, u Upload) error {
	ctx = context.WithoutCancel(ctx)
	doc, err := s.document(ctx, u.ID)
	switch {
	case err != nil || doc == nil:
		return err
	case doc.live():
		// Report a conflict even if the file contains the added bytes. The client then gets the offset, which shows
		// that the upload is complete.
		return errors.Join(errTaken, s.DropJournal(ctx, u.ID))
	}
	return errors.Join(errNoUpload, s.purgeBytes(ctx, u.ID))
}

// AppendVerified is like Append, but it adds no bytes before it has read all bytes of r and has called verify. If
// verify returns an error, AppendVerified adds no bytes and returns this error. If another call of AppendVerified for
// the same upload is in progress, the error wraps problem.Locked.
func (s *Store) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, verify func() error) (int64, error) {
	u, _, err := s.load(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Stored || u.Offset != offset {
		return 0, errTaken
	}
	// Until the bytes are verified, store the bytes only as chunks of a temporary file, which is never committed. Its
	// declared size is 0, because the owner's usage already contains the full length of u.
	var added int64
	_, err = s.put(ctx, File{Info: file.Info{Owner: u.Owner}}, u.ID, io.LimitReader(r, u.Length-offset), func(f *File) ([]byte, error) {
		if err := verify(); err != nil {
			return nil, err
		}
		if added, err = s.Append(ctx, id, offset, s.Reader(ctx, *f)); err == nil {
			err = errVerified
		}
		return nil, err
	})
	if errors.Is(err, errVerified) {
		err = nil // if Put could not delete the temporary file, sweep deletes it later
	}
	return added, err
}

// errVerified prevents Put from committing the temporary file after its bytes were verified and appended.
var errVerified = errors.New("the bytes are verified and appended")
