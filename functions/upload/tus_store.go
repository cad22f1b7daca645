package main

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	tusd "github.com/tus/tusd/v2/pkg/handler"

	"github.com/strongroom-dev/strongroom/shared/content"
)

// uploads contains the methods of content.Store that only resumable uploads need.
type uploads interface {
	Create(ctx context.Context, u content.Upload) (content.Upload, error)
	Find(ctx context.Context, id string) (content.Upload, error)
	Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error)
	AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error)
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Terminate(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
}

// tusStore is the data store of tusd (tusd.DataStore). It gives tusd access only to the upload that the request
// creates or refers to, because only that upload has passed the access checks.
type tusStore struct{ *tus }

// NewUpload implements tusd.DataStore. It takes the file name and the content type from the request state in ctx,
// because the values in info are not validated.
func (s tusStore) NewUpload(ctx context.Context, info tusd.FileInfo) (tusd.Upload, error) {
	x := exchangeOf(ctx)
	u, err := s.files.Create(ctx, content.Upload{Owner: x.owner, Name: x.metadata.name, ContentType: x.metadata.contentType,
		Metadata: x.metadata.raw, Length: info.Size, ExpiresAt: s.now().Add(tusLifetime)})
	if err != nil {
		return nil, x.fail(err)
	}
	// Check the quota again immediately, because the declared length counts toward the quota as soon as the upload
	// exists.
	if err := s.withinQuota(ctx, x.owner, u.ID); err != nil {
		return nil, x.fail(err)
	}
	x.upload, x.created = u, true
	return tusUpload{s.tus, x}, nil
}

// GetUpload implements tusd.DataStore. It returns tusd.ErrNotFound if id is not the ID of the upload that the current
// request creates or refers to.
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

// tusUpload implements tusd.Upload for the upload that the current request creates or refers to. x is the state of this
// request.
type tusUpload struct {
	t *tus
	x *exchange
}

// GetInfo implements tusd.Upload. It returns no metadata, because tusd would not send the metadata back exactly as
// received. answer.send adds the original metadata instead.
func (u tusUpload) GetInfo(context.Context) (tusd.FileInfo, error) {
	return tusd.FileInfo{ID: u.x.upload.ID, Size: u.x.upload.Length, Offset: u.x.upload.Offset}, nil
}

// WriteChunk implements tusd.Upload. If a request body without a checksum is interrupted, WriteChunk keeps the bytes
// that have arrived, so that the client can continue at the next byte.
func (u tusUpload) WriteChunk(ctx context.Context, offset int64, src io.Reader) (n int64, err error) {
	u.x.body.allow(u.x.upload.Length - offset)
	// If the request has a checksum, keep no bytes of an interrupted body, because an incomplete body cannot match
	// the checksum.
	if c := u.x.checksum; c != nil {
		n, err = u.t.files.AppendVerified(ctx, u.x.upload.ID, offset, src, c.hash(), c.sum, errChecksum)
		if errors.Is(err, errChecksum) && u.x.body.err != nil {
			err = u.x.body.err // the interruption, which src reports as io.EOF, caused the mismatch
		}
	} else {
		n, err = u.t.files.Append(ctx, u.x.upload.ID, offset, src)
	}
	u.x.upload.Offset = offset + n
	return n, u.x.fail(err)
}

// GetReader implements tusd.Upload. It always returns an error, because clients download files from /files/{id}/content
// instead.
func (u tusUpload) GetReader(context.Context) (io.ReadCloser, error) {
	return nil, fmt.Errorf("read upload %s: %w", u.x.upload.ID, errors.ErrUnsupported)
}

// FinishUpload implements tusd.Upload. It turns the complete upload into a file and publishes the event that
// announces the file.
func (u tusUpload) FinishUpload(ctx context.Context) error {
	// If an earlier request created the upload, keep the file even if publishing fails, so that the client does not
	// have to send the file again. Otherwise, announce may delete the file, because the client does not have the
	// upload's URL yet and must send the whole file again anyway.
	return u.x.fail(u.t.settle(ctx, u.x.upload, !u.x.created))
}

// Terminate implements tusd.TerminatableUpload.
func (u tusUpload) Terminate(ctx context.Context) error {
	err := u.t.files.Terminate(ctx, u.x.upload.ID)
	if err == nil {
		u.t.measureTus(ctx, u.x.upload, "terminated", 0)
	}
	return u.x.fail(err)
}
