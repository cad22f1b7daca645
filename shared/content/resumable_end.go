package content

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Finish turns a complete upload into a file, even if the upload has expired. Concurrent and repeated calls return
// the same file, and only one event is stored for it. The error wraps problem.Conflict if bytes are missing, or
// problem.NotFound if the upload does not exist or was terminated. If the SHA-256 digest of the file differs from the
// declared digest, Finish terminates the upload, and the error wraps problem.DigestMismatch.
func (s *Store) Finish(ctx context.Context, id string, finish func(*File) (event []byte, err error)) (File, error) {
	u, last, err := s.load(ctx, id)
	switch {
	case err != nil:
		return File{}, err
	case u.Stored:
		return s.Get(ctx, id)
	case !u.Complete():
		return File{}, problem.Conflict.With("the upload is incomplete: %d of %d bytes have arrived", u.Offset, u.Length)
	}
	if deleted, err := s.markedByPrevious(ctx, id); err != nil {
		return File{}, err
	} else if deleted {
		return File{}, errNoUpload
	}
	if err := s.hasChunks(ctx, u); err != nil {
		return File{}, cmp.Or(s.stillOpen(ctx, u), err) // a concurrent Terminate deletes the chunks
	}
	sum, err := last.hash()
	if err != nil {
		return File{}, err
	}
	f := File{Info: file.Info{ID: u.ID, Owner: u.Owner, Name: u.Name, Size: u.Length, SHA256: hex.EncodeToString(sum.Sum(nil)),
		ContentType: u.ContentType}, chunkSize: chunkSize}
	if u.SHA256 != "" && u.SHA256 != f.SHA256 {
		if err := s.Terminate(ctx, id); err != nil {
			return File{}, err
		}
		return File{}, problem.DigestMismatch.With("the file has the SHA-256 digest %s, which differs from the declared digest: "+
			"the upload was deleted, so start a new upload", f.SHA256)
	}
	if f.ContentType == "" {
		start, err := s.chunk(ctx, u.id, 0)
		if err != nil {
			return File{}, err
		}
		f.ContentType = http.DetectContentType(start) // examines only the first 512 bytes
	}
	f.StoredAt = s.now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return File{}, err
	}
	f.Event = string(event)
	// Make the note due, so that the sweep function finds the file even if no response and no event is sent.
	if err := s.Notes.Postpone(ctx, id, s.now()); err != nil {
		return File{}, err
	}
	if err := s.commit(ctx, f); errors.Is(err, errEnded) {
		return File{}, errNoUpload
	} else if err != nil {
		return File{}, err
	}
	// Look for the mark again, because another call might have committed the file, and a function of the previous
	// version might have deleted it, before this commit.
	if deleted, err := s.markedByPrevious(ctx, id); err != nil {
		return File{}, err
	} else if deleted {
		return File{}, cmp.Or[error](s.MarkDeleted(ctx, id), errNoUpload)
	}
	// Read the file from the store, because another caller might have committed the upload first, with a different
	// StoredAt.
	return s.Get(ctx, id)
}

// hasChunks returns an error that wraps problem.Conflict if a chunk of a complete upload does not exist. A chunk can be
// missing although its journal entry exists, for example after the restore of a backup whose collections were not saved
// at the same time.
func (s *Store) hasChunks(ctx context.Context, u Upload) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(storeInserts)
	for n := int64(0); n*chunkSize < u.Length; n++ {
		group.Go(func() error {
			raw, err := s.rawChunk(ctx, u.id, n, withoutData)
			if err == nil && raw == nil {
				err = problem.Conflict.With("byte %d of the upload is missing: start a new upload", n*chunkSize)
			}
			return err
		})
	}
	return group.Wait()
}

// Terminate ends the upload with the given ID and deletes its bytes. If the upload is already a file, the error wraps
// problem.Conflict.
func (s *Store) Terminate(ctx context.Context, id string) error {
	u, _, err := s.load(ctx, id)
	if err != nil {
		return err
	}
	if err := s.end(ctx, id); err != nil {
		return err
	}
	if err := s.purgeBytes(ctx, id); err != nil {
		return err
	}
	if err := s.release(ctx, u.Owner, id); err != nil {
		return err
	}
	// Keep the note, because a concurrent request might still add bytes. The sweep function deletes these bytes.
	return s.Notes.End(ctx, id, s.now())
}

// DropJournal deletes an upload's journal. Call it only for an upload that has ended or has become a file.
func (s *Store) DropJournal(ctx context.Context, id string) error {
	if _, err := mongodb.RemoveAll(ctx, s.journal, inJournal(id)); err != nil {
		return fmt.Errorf("delete the journal of upload %s: %w", id, err)
	}
	return nil
}
