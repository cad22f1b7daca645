package main

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	tusd "github.com/tus/tusd/v2/pkg/handler"

	"github.com/strongroom-dev/strongroom/shared/content"
)

// uploads keeps files that come in more than one request; see content.Store.
type uploads interface {
	Create(ctx context.Context, u content.Upload) (content.Upload, error)
	Find(ctx context.Context, id string) (content.Upload, error)
	Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error)
	AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error)
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, []byte, error)
	Terminate(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
}

// allStore keeps files, however they come.
type allStore interface {
	store
	uploads
}

// tusStore is what tusd keeps uploads in: the upload of the exchange that the context belongs to, and no other.
type tusStore struct{ *tus }

// NewUpload implements tusd.DataStore. The name and the type are those that the exchange has declared.
func (s tusStore) NewUpload(ctx context.Context, info tusd.FileInfo) (tusd.Upload, error) {
	x := exchangeOf(ctx)
	u, err := s.uploads.Create(ctx, content.Upload{Owner: x.owner, Name: x.metadata.name, ContentType: x.metadata.contentType,
		Metadata: x.metadata.raw, Length: info.Size, ExpiresAt: time.Now().Add(tusLifetime)})
	if err != nil {
		return nil, x.fail(err)
	}
	if err := s.withinQuota(ctx, x.owner, u.ID); err != nil {
		return nil, x.fail(err)
	}
	x.upload, x.created = u, true
	return tusUpload{s.tus, x}, nil
}

// GetUpload implements tusd.DataStore.
func (s tusStore) GetUpload(ctx context.Context, id string) (tusd.Upload, error) {
	x := exchangeOf(ctx)
	if x == nil || x.upload.ID == "" || x.upload.ID != id {
		return nil, tusd.ErrNotFound
	}
	return tusUpload{s.tus, x}, nil
}

// AsTerminatableUpload implements tusd.TerminaterDataStore.
func (s tusStore) AsTerminatableUpload(u tusd.Upload) tusd.TerminatableUpload {
	return u.(tusUpload)
}

// tusUpload is the upload of an exchange.
type tusUpload struct {
	t *tus
	x *exchange
}

// GetInfo implements tusd.Upload. There is no metadata in it: tusd would not give it back as it came.
func (u tusUpload) GetInfo(context.Context) (tusd.FileInfo, error) {
	return tusd.FileInfo{ID: u.x.upload.ID, Size: u.x.upload.Length, Offset: u.x.upload.Offset}, nil
}

// WriteChunk implements tusd.Upload. tusd hides from it where a body breaks off: what came before is kept, unless it has
// a checksum.
func (u tusUpload) WriteChunk(ctx context.Context, offset int64, src io.Reader) (n int64, err error) {
	u.x.body.allow(u.x.upload.Length - offset)
	if c := u.x.checksum; c != nil {
		n, err = u.t.uploads.AppendVerified(ctx, u.x.upload.ID, offset, src, c.hash(), c.sum, errChecksum)
		if errors.Is(err, errChecksum) && u.x.body.err != nil {
			err = u.x.body.err // of course then
		}
	} else {
		n, err = u.t.uploads.Append(ctx, u.x.upload.ID, offset, src)
	}
	u.x.upload.Offset = offset + n
	return n, u.x.fail(err)
}

// GetReader implements tusd.Upload. There are no downloads here: GET /files/{id}/content has them.
func (u tusUpload) GetReader(context.Context) (io.ReadCloser, error) {
	return nil, fmt.Errorf("read upload %s: %w", u.x.upload.ID, errors.ErrUnsupported)
}

// FinishUpload implements tusd.Upload. A file that came with its creation may be taken back, like one that came in a
// plain request: its client was not told where it is.
func (u tusUpload) FinishUpload(ctx context.Context) error {
	return u.x.fail(u.t.settle(ctx, u.x.upload, !u.x.created))
}

// Terminate implements tusd.TerminatableUpload.
func (u tusUpload) Terminate(ctx context.Context) error {
	err := u.t.uploads.Terminate(ctx, u.x.upload.ID)
	if err == nil {
		measureTus(ctx, u.x.upload, "terminated", 0)
	}
	return u.x.fail(err)
}
