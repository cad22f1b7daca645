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

// Put keeps the bytes of r as a new file with the owner, name, content type and key of f, and returns it complete. The
// size of f is what the client declared, or -1; it counts towards the owner's Usage while the bytes arrive.
//
// Before the first byte it notes that there is an upload, and what it leaves unfinished can be found by that. The note
// stays until Confirm says that the event is with the broker.
//
// When all bytes are there, finish gets the file and returns the event that its document shall carry; an error of
// finish refuses the file. Put reads until io.EOF: any other error of r, io.ErrUnexpectedEOF included, means that the
// bytes are not complete, and is returned wrapped. After an error nothing of the file stays, except where the store
// went away: then an unreachable rest may, or, if the store did not answer the commit itself, a whole file whose event
// is not confirmed; either with its note.
func (s *Store) Put(ctx context.Context, f File, r io.Reader, finish func(*File) (event []byte, err error)) (_ File, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return File{}, fmt.Errorf("make a file id: %w", err)
	}
	f.ID = id.String()
	f.chunkSize = chunkSize
	if err := s.open(ctx, openDocument{ID: f.ID, Owner: f.Owner, Length: f.Size}); err != nil {
		return File{}, err
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		// The client's going away is the most common reason to be here, and must not stop the cleaning up.
		if failed := s.Discard(context.WithoutCancel(ctx), f.ID); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	if err := s.writeChunks(ctx, id, &f, r); err != nil {
		return File{}, err
	}
	f.StoredAt = time.Now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return File{}, err
	}
	if err := ctx.Err(); err != nil {
		return File{}, fmt.Errorf("before the commit of file %s: %w", f.ID, err)
	}
	if err := s.commit(ctx, f, event); err != nil {
		// No answer may mean that the file is there. Then its chunks must stay: a document without its chunks would be
		// a broken file for ever, while chunks without a document are merely swept.
		keep = mongodb.Away(err)
		return File{}, mongodb.Problem(err, "commit file "+f.ID)
	}
	keep = true
	return f, nil
}

// writeChunks sends r in chunks, several at a time, and fills in the size and digest of f; after an error the size is
// what was sent at most. When it returns, no insert is in flight any more.
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
			return false, fmt.Errorf("read the bytes of file %s: %w", f.ID, err)
		}
		if length == 0 {
			s.buffers.Put(b)
			return false, nil
		}
		more = err == nil
		sum.Write(b[:length])
		f.Size += int64(length)
		// The slot comes before the goroutine: a stream that waits for one holds this one buffer and no more.
		select {
		case s.slots <- struct{}{}:
		case <-sending.Done():
			s.buffers.Put(b)
			return false, nil
		}
		group.Go(func() error {
			defer func() { <-s.slots }()
			// Without the cancellation of ctx, so that every insert has ended one way or the other before the chunks
			// are deleted: one that is cancelled here may go on in the server and outlive the deletion.
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
			defer cancel()
			_, err := s.chunks.InsertOne(call, &lentChunk{newChunk(id, n, b[:length]), func() { s.buffers.Put(b) }})
			return mongodb.Problem(err, fmt.Sprintf("write chunk %d of file %s", n, f.ID))
		})
		return more, nil
	}
	var err error
	more := true
	for n := int32(0); more && err == nil && sending.Err() == nil; n++ {
		more, err = read(n)
	}
	// An insert that failed is the cause of what follows it.
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

// commit inserts the document of f. An insert that got no answer is tried once more: under the same unique _id that is
// safe, and finding the document there is as good as having inserted it.
func (s *Store) commit(ctx context.Context, f File, event []byte) error {
	insert := func() error {
		// Not cancelled with ctx: once the commit has been sent, its outcome must be known.
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

// fill reads until buf is full or r ends. Unlike io.ReadFull, it tells the end of r, io.EOF, from an r that broke off
// with io.ErrUnexpectedEOF, as the body of a request does whose client went away.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
