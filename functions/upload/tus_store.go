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

// tusStore is the data store of tusd (tusd.DataStore). During a request, it gives tusd access only to the upload that
// the request creates or refers to, because only that upload has passed the access checks.
type tusStore struct{ *tus }

// NewUpload implements tusd.DataStore. It takes the file name and the content type from the exchange, which holds the
// state of the request, because only these values are validated.
func (s tusStore) NewUpload(ctx context.Context, info tusd.FileInfo) (tusd.Upload, error) {
	x := exchangeOf(ctx)
	u, err := s.files.Create(ctx, content.Upload{Owner: x.owner, Name: x.metadata.name, ContentType: x.metadata.contentType,
		Metadata: x.metadata.raw, Length: info.Size, ExpiresAt: s.now().Add(tusLifetime)})
	if err != nil {
		return nil, x.fail(err)
	}
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

// GetInfo implements tusd.Upload. It returns no metadata, because tusd would not send the metadata back to the client
// exactly as the client sent it. answer.send adds the original metadata to the response instead.
func (u tusUpload) GetInfo(context.Context) (tusd.FileInfo, error) {
	return tusd.FileInfo{ID: u.x.upload.ID, Size: u.x.upload.Length, Offset: u.x.upload.Offset}, nil
}

// WriteChunk implements tusd.Upload. If the request body is interrupted, src returns io.EOF, because tusd hides the
// error. WriteChunk keeps the bytes that arrived before the interruption, so that the client can continue at the next
// byte. If the interrupted request has a checksum, WriteChunk keeps no bytes, because an incomplete body cannot match
// its checksum.
func (u tusUpload) WriteChunk(ctx context.Context, offset int64, src io.Reader) (n int64, err error) {
	u.x.body.allow(u.x.upload.Length - offset)
	if c := u.x.checksum; c != nil {
		n, err = u.t.files.AppendVerified(ctx, u.x.upload.ID, offset, src, c.hash(), c.sum, errChecksum)
		if errors.Is(err, errChecksum) && u.x.body.err != nil {
			err = u.x.body.err // the interruption is the reason for the mismatch
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

// FinishUpload implements tusd.Upload. It turns the complete upload into a file and publishes the file's event. If
// publishing fails and the same request also created the upload, FinishUpload can delete the file, as for a
// single-request upload. The client loses nothing, because it has not received the upload's URL and therefore has to
// send the whole file again in any case.
func (u tusUpload) FinishUpload(ctx context.Context) error {
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
