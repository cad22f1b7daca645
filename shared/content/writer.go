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

// Put stores the bytes of r as a new file. It copies the owner, name, content type and key from f, and sets the other
// fields of the returned File. f.Size is the declared file size in bytes, or -1 if the client declared no size. During
// the upload, Usage counts the declared size.
//
// Put inserts an upload record before it reads the first byte, so that the sweep function can find an interrupted
// upload. After the broker has confirmed the file's event, the caller must call Confirm to delete the record.
//
// After all bytes are stored, Put calls its finish parameter with the file to create the file's event. Put stores this
// event in the file's document. If finish returns an error, Put does not create the file.
//
// Put reads r until io.EOF. Any other error from r, including io.ErrUnexpectedEOF, means that the bytes are incomplete,
// so Put does not create the file and returns an error that wraps the error from r.
//
// If an error occurs, Put deletes everything that it has written, with two exceptions. If the store is unavailable,
// the upload record and some chunks can remain. If the store does not respond to the commit, the upload record and a
// complete file with an unconfirmed event can remain. In both cases, the sweep function later finds the upload record,
// and completes or discards the upload.
func (s *Store) Put(ctx context.Context, f File, r io.Reader, finish func(*File) (event []byte, err error)) (_ File, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return File{}, fmt.Errorf("generate a file ID: %w", err)
	}
	f.ID = id.String()
	f.chunkSize = chunkSize
	if err := s.begin(ctx, uploadDocument{ID: f.ID, Owner: f.Owner, Length: f.Size}); err != nil {
		return File{}, err
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		// Ignore the cancellation of ctx. If the client has disconnected, ctx is already canceled, but the bytes must
		// still be deleted.
		if failed := s.Discard(context.WithoutCancel(ctx), f.ID); failed != nil {
			err = errors.Join(err, failed)
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
		// Keep the chunks if the store did not respond, because the file might exist, and a document without chunks
		// would be a corrupt file forever. If the file does not exist, the sweep function deletes the chunks later.
		keep = mongodb.Away(err)
		return File{}, mongodb.Problem(err, "commit file "+f.ID)
	}
	keep = true
	return f, nil
}

// writeChunks inserts the bytes of r as the chunks of the file with the given ID. It inserts up to streamInserts chunks
// at the same time. It sets f.Size and f.SHA256. After an error, f.Size is an upper bound on the number of inserted
// bytes, and f.SHA256 is not set. When writeChunks returns, no insert is in flight, so the caller can safely delete the
// chunks.
func (s *Store) writeChunks(ctx context.Context, id uuid.UUID, f *File, r io.Reader) error {
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(streamInserts)
	sum := sha256.New()
	f.Size = 0
	read := func(n int32) (more bool, err error) {
		b := s.buffers.Get().(*buffer)
		length, err := fill(r, b[:])
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
			// Ignore the cancellation of ctx, because the server could otherwise continue a canceled insert and write
			// the chunk after the chunks of the failed upload were deleted.
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
	// Wait for all inserts. An insert error takes precedence over an error from r, because a failed insert can be the
	// reason why the loop above ended.
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

// commit inserts the fs.files document for f. If the store is unavailable or does not respond, commit repeats the
// insert once. The retry cannot create a second file, because the _id is unique. If the document already exists,
// commit returns nil.
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
	if mongodb.Away(err) {
		err = insert()
	}
	return err
}

// fill reads from r until buf is full or r returns an error. Unlike io.ReadFull, fill returns io.EOF if r ends after
// only some bytes. It returns io.ErrUnexpectedEOF only if r returns this error, for example because the client
// disconnected.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
