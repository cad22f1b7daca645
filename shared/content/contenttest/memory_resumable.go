package contenttest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxResumable is the maximum number of open resumable uploads per user.
const maxResumable = 1000

func (m *Memory) Create(ctx context.Context, u content.Upload) (content.Upload, error) {
	u.ID, u.Offset = uuid.Must(uuid.NewV7()).String(), 0
	u.ExpiresAt = u.ExpiresAt.UTC().Truncate(time.Millisecond)
	if err := m.lock(ctx, "Create", u.ID); err != nil {
		return content.Upload{}, err
	}
	open := 0
	for _, id := range m.resumable[u.Owner] {
		if _, stored := m.files[id]; m.uploads[id] != nil && !stored && !m.ended[id] {
			open++
		}
	}
	m.resumable[u.Owner] = append(m.resumable[u.Owner], u.ID)
	m.mu.Unlock()
	if open >= maxResumable {
		return content.Upload{}, problem.TooManyUploads.With("you have too many unfinished uploads")
	}
	return u, m.reserve(ctx, outbox.Note{ID: u.ID, Owner: u.Owner, Length: u.Length, ExpiresAt: &u.ExpiresAt, DueAt: u.ExpiresAt,
		Tus: &outbox.Tus{Name: u.Name, ContentType: u.ContentType, Metadata: u.Metadata, SHA256: u.SHA256}})
}

func (m *Memory) Find(ctx context.Context, id string) (content.Upload, error) {
	if err := m.lock(ctx, "Find", id); err != nil {
		return content.Upload{}, err
	}
	defer m.mu.Unlock()
	u, err := m.load(id)
	if err == nil && !u.Stored && m.now().After(u.ExpiresAt) {
		return content.Upload{}, errNoUpload
	}
	return u, err
}

// load is like Find, but it also returns an expired upload.
func (m *Memory) load(id string) (content.Upload, error) {
	if f, stored := m.files[id]; stored {
		return content.Upload{ID: id, Owner: f.Owner, Name: f.Name, ContentType: f.ContentType, SHA256: f.SHA256, Length: f.Size, Offset: f.Size, Stored: true}, nil
	}
	u := m.uploads[id]
	if u == nil || u.Tus == nil || m.ended[id] {
		return content.Upload{}, errNoUpload
	}
	return content.Upload{ID: id, Owner: u.Owner, Name: u.Tus.Name, ContentType: u.Tus.ContentType, Metadata: u.Tus.Metadata,
		SHA256: u.Tus.SHA256, Length: u.Length, Offset: int64(len(u.bytes)), ExpiresAt: *u.ExpiresAt}, nil
}

// at returns the upload with the given ID, even if the upload has expired. It returns an error if bytes cannot be
// appended at the given offset.
func (m *Memory) at(id string, offset int64) (content.Upload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, err := m.load(id)
	if err == nil && (u.Stored || u.Offset != offset) {
		err = errTaken
	}
	return u, err
}

func (m *Memory) Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error) {
	u, err := m.at(id, offset)
	if err != nil {
		return 0, err
	}
	b, failed := m.readAll(io.LimitReader(r, u.Length-offset))
	// Call Before only after all bytes have been read.
	if err := m.begin(context.WithoutCancel(ctx), "Append", id); err != nil {
		return 0, err
	}
	if _, err := m.at(id, offset); err != nil {
		return 0, errors.Join(err, failed)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	open := m.uploads[id]
	if open.bytes = append(open.bytes, b...); int64(len(open.bytes)) == open.Length {
		open.DueAt = m.now()
	}
	return int64(len(b)), failed
}

func (m *Memory) AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, verify func() error) (int64, error) {
	u, err := m.at(id, offset)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	taken := m.verifying[id]
	m.verifying[id] = true
	m.mu.Unlock()
	if taken {
		return 0, problem.Locked.With("another request is adding bytes to this upload").RetryAfter(time.Second)
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.verifying, id)
	}()
	b, err := io.ReadAll(io.LimitReader(r, u.Length-offset))
	if err == nil {
		err = verify()
	}
	if err != nil {
		return 0, err
	}
	return m.Append(ctx, id, offset, bytes.NewReader(b))
}

func (m *Memory) Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error) {
	if err := m.lock(ctx, "Finish", id); err != nil {
		return content.File{}, err
	}
	defer m.mu.Unlock()
	u, err := m.load(id)
	switch {
	case err != nil:
		return content.File{}, err
	case u.Stored:
		return m.files[id].File, nil
	case !u.Complete():
		return content.File{}, problem.Conflict.With("the upload is incomplete")
	}
	b := m.uploads[id].bytes
	if u.SHA256 != "" && u.SHA256 != digest(b) {
		m.terminate(id)
		return content.File{}, problem.DigestMismatch.With("the file does not match its digest")
	}
	f := content.File{Info: file.Info{ID: id, Owner: u.Owner, Name: u.Name, Size: u.Length, SHA256: digest(b),
		ContentType: cmp.Or(u.ContentType, http.DetectContentType(b)), StoredAt: m.now()}}
	event, err := finish(&f)
	if err != nil {
		return content.File{}, err
	}
	f.Event = string(event)
	m.uploads[id].DueAt = m.now()
	m.files[id] = Stored{File: f, Bytes: b}
	return f, nil
}

func (m *Memory) Terminate(ctx context.Context, id string) error {
	if err := m.lock(ctx, "Terminate", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	found, err := m.load(id)
	if err != nil {
		return err
	}
	if found.Stored {
		return errComplete
	}
	m.terminate(id)
	return nil
}

func (m *Memory) terminate(id string) {
	now := m.now()
	m.ended[id] = true
	u := m.uploads[id]
	u.bytes, u.ExpiresAt, u.DueAt = nil, &now, now
}

func (m *Memory) Discard(ctx context.Context, id string) error {
	if err := m.lock(ctx, "Discard", id); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if _, stored := m.files[id]; stored {
		return errComplete
	}
	m.ended[id] = true
	delete(m.uploads, id)
	return nil
}
