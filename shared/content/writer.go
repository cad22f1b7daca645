package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// Put stores the bytes of r as a new file with the owner, name, content type and key of f. f.Size must be the
// declared size in bytes, or -1 if it is unknown. Call Confirm after the broker has confirmed the event that the
// finish function returned.
func (s *Store) Put(ctx context.Context, f File, r io.Reader, finish func(*File) (event []byte, err error)) (_ File, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return File{}, fmt.Errorf("generate a file ID: %w", err)
	}
	f.ID = id.String()
	f.chunkSize = chunkSize
	// Insert the upload record before the first chunk, so that the sweep function can find an interrupted upload.
	if err := s.begin(ctx, uploadDocument{ID: f.ID, Owner: f.Owner, Length: f.Size}); err != nil {
		return File{}, err
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		// Ignore the cancellation of ctx, because the bytes must be deleted even if the client has disconnected.
		if failed := s.Discard(context.WithoutCancel(ctx), f.ID); failed != nil {
			err = errors.Join(err, failed) // sweep deletes the upload later
		}
	}()
	if err := s.writeChunks(ctx, id, &f, r); err != nil {
		return File{}, err
	}
	f.StoredAt = s.now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return File{}, err
	}
	if err := ctx.Err(); err != nil {
		return File{}, fmt.Errorf("prepare the commit of file %s: %w", f.ID, err)
	}
	if err := s.commit(ctx, f, event); err != nil {
		// If the store did not respond, keep the chunks, because the file might exist, and a file without chunks
		// would be corrupt. Later, the sweep function publishes the file's event, or deletes the chunks if the file
		// does not exist.
		keep = mongodb.Away(err)
		return File{}, mongodb.Problem(err, "commit file "+f.ID)
	}
	keep = true
	return f, nil
}

// writeChunks inserts the bytes of r as a file's chunks, and sets f.Size and f.SHA256. It returns only after all
// inserts have ended, so that the caller can safely delete the chunks.
func (s *Store) writeChunks(ctx context.Context, id uuid.UUID, f *File, r io.Reader) error {
	// Do not use the driver's GridFS writer, because it corrupts concurrent uploads (docs/decisions/001).
	group, sending := errgroup.WithContext(ctx)
	// The driver holds three copies of each chunk while it inserts the chunk. With two concurrent inserts, and one more
	// buffer that is being filled, an upload needs memory for at most seven chunks.
	group.SetLimit(streamInserts)
	sum := sha256.New()
	f.Size = 0
	read := func(n int32) (more bool, err error) {
		b := s.buffers.Get().(*buffer)
		length, err := fill(r, b[:])
		// Any error except io.EOF, even io.ErrUnexpectedEOF, means that the file is incomplete.
		if err != nil && err != io.EOF {
			s.buffers.Put(b)
			return false, fmt.Errorf("read the uploaded bytes of file %s: %w", f.ID, err)
		}
		if length == 0 {
			s.buffers.Put(b)
			return false, nil
		}
		more = err == nil
		sum.Write(b[:length])
		f.Size += int64(length)
		// Wait for the semaphore here, not in the goroutine, so that the loop does not fill another buffer during the
		// wait.
		select {
		case s.slots <- struct{}{}:
		case <-sending.Done():
			s.buffers.Put(b)
			return false, nil
		}
		group.Go(func() error {
			defer func() { <-s.slots }()
			// Ignore the cancellation of ctx, because the server could write the chunk of a canceled insert after
			// the upload's other chunks were deleted.
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
			defer cancel()
			_, err := s.chunks.InsertOne(call, &lentChunk{newChunk(id, n, b[:length]), func() { s.buffers.Put(b) }})
			return mongodb.Problem(err, fmt.Sprintf("write chunk %d of file %s", n, f.ID))
		})
		return more, nil
	}
	more, err := true, error(nil)
	for n := int32(0); more && err == nil && sending.Err() == nil; n++ {
		more, err = read(n)
	}
	// Wait for all inserts. An insert error takes precedence over an error from r, because a failed insert can be
	// the reason why the loop ended.
	if failed := group.Wait(); failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write file %s: %w", f.ID, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// commit inserts the fs.files document for f, unless the document already exists. If the store is unavailable or
// does not respond, commit tries once more.
func (s *Store) commit(ctx context.Context, f File, event []byte) error {
	insert := func() error {
		// Ignore the cancellation of ctx, because after a canceled insert, it would be unknown whether the file exists.
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_, err := s.files.InsertOne(call, document(f, event))
		if mongo.IsDuplicateKeyError(err) {
			return nil
		}
		return err
	}
	err := insert()
	if mongodb.Away(err) { // a retry cannot create a second file, because the _id is unique
		err = insert()
	}
	return err
}

// fill reads from r until buf is full or r returns an error. Unlike io.ReadFull, it never replaces io.EOF with
// io.ErrUnexpectedEOF, because callers take io.ErrUnexpectedEOF to mean that the client disconnected.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
