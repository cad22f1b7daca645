package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// The bytes of a resumable upload can arrive in any number of requests, and different replicas can handle these
// requests. The store uses no locks. Instead, the bytes form a chain of pieces, and a writer adds a piece by inserting
// one document. The _id of this document is derived from the file ID and the offset of the piece. If two writers add a
// piece at the same offset, one of them gets a duplicate key error and stops. The chain therefore never forks, even if
// several writers run concurrently or a writer is killed.
//
//   - If a piece starts at the start of a chunk, the writer inserts the piece into fs.chunks as that chunk. The chunk
//     is short if the request ended before the chunk was full. The writer then inserts a journal entry into
//     uploads.journal. The entry contains the length of the piece and the state of the SHA-256 hash at the end of the
//     piece. If the writer is killed before it inserts the entry, the next caller that reads the chain inserts the
//     entry.
//   - If a piece starts inside a chunk, the writer inserts the piece and its bytes into uploads.journal. After the
//     last byte of the chunk has arrived, the writer replaces the short chunk with the complete chunk. Several callers
//     can do this at the same time. All of them write the same bytes, because the bytes of the complete chunk depend
//     only on the chain.
//   - The chain ends with the seal, which is another document in uploads.journal. The seal contains the outcome of the
//     upload: complete, terminated or expired. An upload has at most one seal. If the outcome is complete, the document
//     in fs.files is inserted next. As for any other file, that insert commits the upload. The journal is then no
//     longer needed and is deleted.

// Upload describes a resumable upload.
type Upload struct {
	// ID is a UUIDv7 that Create generates. The file that the upload becomes has the same ID.
	ID string
	// Owner is the ID of the user who uploads the file.
	Owner string
	Name  string
	// ContentType is the file's media type, including its parameters. If ContentType is empty, Finish detects the
	// media type from the first bytes of the file.
	ContentType string
	// Metadata is the metadata that the client sent. The store keeps it only so that the client can read it later.
	Metadata string
	// Length is the size of the complete file in bytes. Offset is the number of bytes that have arrived.
	Length, Offset int64
	// ExpiresAt is the time when the upload expires. It is the zero time if Stored is true, because a stored file does
	// not expire.
	ExpiresAt time.Time
	// Stored reports whether the upload has become a file. Unconfirmed reports whether that file still has an upload
	// record, because the broker has not confirmed the file's event yet.
	Stored, Unconfirmed bool

	id uuid.UUID // the parsed ID of an upload that is not stored
}

// Complete reports whether all bytes of the file have arrived.
func (u Upload) Complete() bool { return u.Offset == u.Length }

var (
	errNoUpload = problem.NotFound.With("there is no such upload")
	// errTaken reports that bytes cannot be added to an upload, because the offset is wrong or because another writer
	// has already added bytes at the same offset.
	errTaken = problem.Conflict.With("the offset is wrong or outdated: send a HEAD request to get the current offset")
)

// Create creates a resumable upload with the properties of u, but with a new ID and without any bytes.
func (s *Store) Create(ctx context.Context, u Upload) (Upload, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Upload{}, fmt.Errorf("generate a file ID: %w", err)
	}
	u.ID, u.Offset = id.String(), 0
	u.ExpiresAt = u.ExpiresAt.UTC().Truncate(time.Millisecond)
	return u, s.begin(ctx, uploadDocument{ID: u.ID, Owner: u.Owner, Length: u.Length, ExpiresAt: &u.ExpiresAt,
		Tus: &tusDocument{u.Name, u.ContentType, u.Metadata}})
}

// Find returns the upload with the given ID. The error wraps problem.NotFound if the upload does not exist, was
// terminated or has expired, or if the upload became a file that was deleted.
func (s *Store) Find(ctx context.Context, id string) (Upload, error) {
	u, _, err := s.load(ctx, id)
	if err == nil && !u.Stored && s.now().After(u.ExpiresAt) {
		return Upload{}, errNoUpload
	}
	return u, err
}

// load is like Find, but it also returns an expired upload. The second result is the last piece, which is the range of
// bytes that was added last. It is the zero piece if the upload has no bytes or is already a file.
func (s *Store) load(ctx context.Context, id string) (Upload, piece, error) {
	file, err := uuid.Parse(id)
	if err != nil || file.String() != id {
		return Upload{}, piece{}, errNoUpload
	}
	open, err := s.uploadRecord(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	if open == nil || open.Tus == nil {
		u, err := s.findStored(ctx, id, open != nil)
		return u, piece{}, err
	}
	last, outcome, err := s.tail(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	// Look for the file only after tail has read the journal. Finish deletes the journal only after it has created the
	// file, so if the file does not exist now, the journal was still complete when tail read it.
	if u, err := s.findStored(ctx, id, true); !errors.Is(err, problem.NotFound) {
		return u, piece{}, err
	}
	if outcome != "" && outcome != sealComplete {
		return Upload{}, piece{}, errNoUpload
	}
	u := Upload{id: file, ID: id, Owner: open.Owner, Name: open.Tus.Name, ContentType: open.Tus.ContentType, Metadata: open.Tus.Metadata, Length: open.Length}
	if open.ExpiresAt != nil {
		u.ExpiresAt = open.ExpiresAt.UTC()
	}
	if last, err = s.repair(ctx, file, u.Length, last); err != nil {
		return Upload{}, piece{}, err
	}
	u.Offset = last.end()
	return u, last, nil
}

// findStored returns the upload that has become the file with the given ID. The parameter unconfirmed must be true if
// the upload record still exists, which means that the broker has not confirmed the file's event yet.
func (s *Store) findStored(ctx context.Context, id string, unconfirmed bool) (Upload, error) {
	f, err := s.Get(ctx, id)
	if errors.Is(err, problem.NotFound) {
		return Upload{}, errNoUpload
	}
	if err != nil {
		return Upload{}, err
	}
	// Check whether the file was deleted, because a client can still send a request to the upload's URL. The response
	// must not report that a deleted file is stored.
	if deleted, err := s.IsDeleted(ctx, id); err != nil {
		return Upload{}, err
	} else if deleted {
		return Upload{}, errNoUpload
	}
	return Upload{ID: id, Owner: f.Owner, Name: f.Name, ContentType: f.ContentType, Length: f.Size, Offset: f.Size,
		Stored: true, Unconfirmed: unconfirmed}, nil
}

// repair completes an upload's journal after a writer was killed, and returns the upload's last piece (range of bytes).
// The parameter last is the last piece in the journal. If this piece ends a chunk but its bytes are still in the
// journal, repair writes the complete chunk to fs.chunks. If further chunks exist without journal entries, repair
// inserts the missing entries.
func (s *Store) repair(ctx context.Context, file uuid.UUID, length int64, last piece) (piece, error) {
	for {
		if last.Apart && endsChunk(last.end(), length) {
			if err := s.assemble(ctx, file, last.end()); err != nil {
				return piece{}, err
			}
		}
		if last.end()%chunkSize != 0 || last.end() == length {
			return last, nil
		}
		data, err := s.chunk(ctx, file, last.end()/chunkSize)
		if err != nil {
			return piece{}, err
		}
		if data == nil {
			return last, nil
		}
		if len(data) == 0 || last.end()+int64(len(data)) > length {
			return piece{}, fmt.Errorf("upload %s is corrupt: the chunk at offset %d has %d bytes, want 1 to %d", file, last.end(), len(data), length-last.end())
		}
		sum, err := last.hash()
		if err != nil {
			return piece{}, err
		}
		_, _ = sum.Write(data) // hash.Hash.Write never returns an error
		if last, err = last.next(file, len(data), sum); err != nil {
			return piece{}, err
		}
		if err := s.ensurePiece(ctx, last); err != nil {
			return piece{}, err
		}
	}
}
