package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// open is a resumable upload in a fakeStore.
type open struct {
	content.Upload
	bytes []byte
}

var (
	errNone  = problem.NotFound.With("there is no such upload")
	errTaken = problem.Conflict.With("not the next piece")
)

func (s *fakeStore) Create(_ context.Context, u content.Upload) (content.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return content.Upload{}, s.away
	}
	u.ID = uuid.Must(uuid.NewV7()).String()
	s.open[u.ID] = &open{u, nil}
	return u, nil
}

func (s *fakeStore) Find(_ context.Context, id string) (content.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return content.Upload{}, s.away
	}
	if k, ok := s.kept[id]; ok {
		return content.Upload{ID: id, Owner: k.Owner, Name: k.Name, ContentType: k.ContentType, Length: k.Size, Offset: k.Size,
			Stored: true, Unconfirmed: !k.published}, nil
	}
	o, ok := s.open[id]
	if !ok || time.Now().After(o.ExpiresAt) {
		return content.Upload{}, errNone
	}
	u := o.Upload
	u.Offset = int64(len(o.bytes))
	return u, nil
}

func (s *fakeStore) Append(_ context.Context, id string, offset int64, r io.Reader) (int64, error) {
	u, err := s.Find(context.Background(), id)
	if err != nil || s.putErr != nil {
		return 0, errors.Join(err, s.putErr)
	}
	b, err := io.ReadAll(io.LimitReader(r, u.Length-offset))
	if s.whilePut != nil {
		s.whilePut()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads += len(b)
	o, ok := s.open[id]
	if !ok || int64(len(o.bytes)) != offset {
		return 0, errors.Join(errTaken, err)
	}
	o.bytes = append(o.bytes, b...)
	return int64(len(b)), err
}

func (s *fakeStore) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error) {
	b, err := io.ReadAll(io.TeeReader(r, sum))
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return 0, mismatch
	}
	return s.Append(ctx, id, offset, bytes.NewReader(b))
}

func (s *fakeStore) Finish(_ context.Context, id string, finish func(*content.File) ([]byte, error)) (content.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.kept[id]; ok {
		return k.File, nil
	}
	o, ok := s.open[id]
	if !ok {
		return content.File{}, errNone
	}
	if int64(len(o.bytes)) != o.Length {
		return content.File{}, errTaken
	}
	sum := sha256.Sum256(o.bytes)
	f := content.File{Info: file.Info{ID: id, Owner: o.Owner, Name: o.Name, ContentType: o.ContentType, Size: o.Length, SHA256: hex.EncodeToString(sum[:]), StoredAt: time.Now()}}
	if f.ContentType == "" {
		f.ContentType = http.DetectContentType(o.bytes)
	}
	e, err := finish(&f)
	if err != nil {
		return content.File{}, err
	}
	s.kept[id] = &kept{f, o.bytes, e, false}
	delete(s.open, id)
	return f, nil
}

func (s *fakeStore) Terminate(ctx context.Context, id string) error { return s.Discard(ctx, id) }

func (s *fakeStore) Discard(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kept[id]; ok {
		return problem.Conflict.With("the upload is complete")
	}
	delete(s.open, id)
	return nil
}
