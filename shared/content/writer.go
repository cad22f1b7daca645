package content

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
)

// Put stores the bytes of r as a new file with the owner, name, content type and key of f. f.Size must be the declared
// size in bytes, or -1 if it is unknown. After all bytes are stored, Put calls finish, which returns the file's event
// or an error that refuses the file. Then Put commits the file. If the file exceeds the owner's quota, the error wraps
// problem.QuotaExceeded. If Put returns an error that wraps mongodb.ErrUnknown, the file might exist, and the sweep
// function completes or deletes the upload.
func (s *Store) Put(ctx context.Context, f File, r io.Reader, finish func(*File) (event []byte, err error)) (File, error) {
	return s.put(ctx, f, "", r, finish)
}

// put is like Put. If it stores a temporary file for a resumable upload, resumable is the ID of this upload. A
// temporary file does not count toward the quota, but a resumable upload can have only one temporary file at a time.
func (s *Store) put(ctx context.Context, f File, resumable string, r io.Reader, finish func(*File) (event []byte, err error)) (_ File, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return File{}, fmt.Errorf("generate a file ID: %w", err)
	}
	f.ID = id.String()
	f.chunkSize = chunkSize
	reserves := s.Limits.Bytes > 0 || resumable != ""
	// Insert the note before the first chunk, so that the sweep function can find an interrupted upload.
	if err := s.Notes.Add(ctx, outbox.Note{ID: f.ID, Owner: f.Owner, Length: f.Size, IsReserved: reserves, DueAt: s.now().UTC()}); err != nil {
		return File{}, err
	}
	defer func() {
		// After an unknown outcome, delete nothing: the file might exist, or a chunk might still be inserted later.
		if err == nil || errors.Is(err, mongodb.ErrUnknown) {
			return
		}
		// Ignore the cancellation of ctx, because the bytes must be deleted even if the client has disconnected.
		if failed := s.purge(context.WithoutCancel(ctx), f.Owner, f.ID); failed != nil {
			err = errors.Join(err, failed) // sweep deletes the upload later
		}
	}()
	if err := s.writeReserved(ctx, id, &f, resumable, r, reserves); err != nil {
		return File{}, err
	}
	f.StoredAt = s.now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return File{}, err
	}
	f.Event = string(event)
	if err := ctx.Err(); err != nil {
		return File{}, fmt.Errorf("prepare the commit of file %s: %w", f.ID, err)
	}
	if err := s.commit(ctx, f); err != nil {
		return File{}, err
	}
	return f, nil
}

// writeReserved calls writeChunks. If reserves is true, it reserves the size of f in the owner's usage at the same
// time. It returns after both have ended.
func (s *Store) writeReserved(ctx context.Context, id uuid.UUID, f *File, resumable string, r io.Reader, reserves bool) error {
	if !reserves {
		return s.writeChunks(ctx, id, f, r)
	}
	reserve := func(bytes, least int64) (int64, error) {
		return s.reserve(ctx, f.Owner, reservation{ID: f.ID, Bytes: bytes, For: resumable}, least)
	}
	if resumable != "" {
		if _, err := reserve(0, 0); err != nil {
			return err
		}
		return s.writeChunks(ctx, id, f, r)
	}
	declared := f.Size
	var written, refused error
	if declared < 0 {
		written = s.writeChunks(ctx, id, f, &growingReader{r: r, reserve: func(least int64) (int64, error) { return reserve(least+reservedAtOnce, least) }})
	} else {
		writing, stop := context.WithCancel(ctx)
		defer stop()
		var group sync.WaitGroup
		group.Go(func() {
			if _, refused = reserve(declared, declared); refused != nil {
				stop()
			}
		})
		written = s.writeChunks(writing, id, f, r)
		group.Wait()
	}
	switch {
	case refused != nil && errors.Is(written, mongodb.ErrUnknown):
		return errors.Join(refused, written)
	case refused != nil || written != nil || f.Size == declared:
		return cmp.Or(refused, written)
	}
	_, err := reserve(f.Size, f.Size) // corrects the size of the reservation
	return err
}

// growingReader reserves bytes before it returns them.
type growingReader struct {
	r              io.Reader
	read, reserved int64
	// reserve reserves at least the given number of bytes in total, and returns the number of reserved bytes.
	reserve func(least int64) (int64, error)
}

func (g *growingReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// If no reserved bytes are left, read a single byte first, because r might have ended.
	n, err := g.r.Read(p[:min(int64(len(p)), max(1, g.reserved-g.read))])
	g.read += int64(n)
	if g.read > g.reserved {
		var refused error
		if g.reserved, refused = g.reserve(g.read); refused != nil {
			return 0, refused
		}
	}
	return n, err
}

// writeChunks inserts the bytes of r as a file's chunks, and sets f.Size and f.SHA256. It returns only after all
// inserts have ended, so that the caller can safely delete the chunks.
func (s *Store) writeChunks(ctx context.Context, id uuid.UUID, f *File, r io.Reader) error {
	// Do not use the driver's GridFS writer, because it corrupts concurrent uploads (docs/decisions/001).
	group, sending := errgroup.WithContext(ctx)
	// The driver holds three copies of each chunk while it inserts the chunk. With two concurrent inserts, and one more
	// buffer that is being filled, an upload needs memory for at most seven chunks.
	group.SetLimit(streamInserts)
	var unknown atomic.Bool // whether the outcome of an insert is unknown
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
			err := mongodb.Insert(ctx, s.chunks, chunkTimeout, &lentChunk{newChunk(id, n, b[:length]), func() { s.buffers.Put(b) }},
				fmt.Sprintf("write chunk %d of file %s", n, f.ID))
			if errors.Is(err, mongodb.ErrUnknown) {
				unknown.Store(true)
			}
			return err
		})
		return more, nil
	}
	more, err := true, error(nil)
	for n := int32(0); more && err == nil && sending.Err() == nil; n++ {
		more, err = read(n)
	}
	// Wait for all inserts. An insert error takes precedence over an error from r, because a failed insert can be
	// the reason why the loop ended. If the outcome of any insert is unknown, the caller must keep the chunks.
	failed := group.Wait()
	if unknown.Load() {
		failed = fmt.Errorf("%w: %w", mongodb.ErrUnknown, failed)
	}
	if err := cmp.Or(failed, err); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write file %s: %w", f.ID, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
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
