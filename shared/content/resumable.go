package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// The bytes of a resumable upload are stored as a chain of pieces (ranges of bytes). A writer adds a piece by inserting
// a document whose _id is derived from the piece's offset. Writers need no locks, because only one of them can insert a
// piece at a given offset.

// Upload describes a resumable upload.
type Upload struct {
	// ID is a UUIDv7 that Create generates. When the upload becomes a file, this ID is also the file ID.
	ID string
	// Owner is the ID of the user who uploads the file.
	Owner string
	Name  string
	// ContentType is the file's media type, including its parameters. If ContentType is empty, Finish detects the
	// media type from the first bytes of the file.
	ContentType string
	// Metadata is the metadata that the client sent. The store saves it only so that the client can read it later.
	Metadata string
	// SHA256 is the digest that the client has declared for the whole file, in hexadecimal. It is empty if the client
	// has declared none. If Stored is true, SHA256 is the digest of the file.
	SHA256 string
	// Length is the size of the complete file in bytes. Offset is the number of bytes that have arrived.
	Length, Offset int64
	// ExpiresAt is the time when the upload expires. It is the zero time if Stored is true, because a stored file does
	// not expire.
	ExpiresAt time.Time
	// Stored reports whether the upload has become a file.
	Stored bool

	id uuid.UUID // the parsed ID of an upload that is not stored
}

// Complete reports whether all bytes of the file have arrived.
func (u Upload) Complete() bool { return u.Offset == u.Length }

var (
	errNoUpload = problem.NotFound.With("there is no such upload")
	// errTaken reports that the offset is wrong, or that another writer has already added bytes at this offset.
	errTaken = problem.Conflict.With("the offset is wrong or outdated: send a HEAD request to get the current offset")
)

// Create creates a resumable upload with the properties of u, but with a new ID and without any bytes. If the file
// would exceed the owner's quota, the error wraps problem.QuotaExceeded. If the owner has too many open uploads, it
// wraps problem.TooManyUploads.
func (s *Store) Create(ctx context.Context, u Upload) (Upload, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Upload{}, fmt.Errorf("generate a file ID: %w", err)
	}
	u.ID, u.Offset = id.String(), 0
	u.ExpiresAt = u.ExpiresAt.UTC().Truncate(time.Millisecond)
	err = s.Notes.Add(ctx, outbox.Note{ID: u.ID, Owner: u.Owner, Length: u.Length, IsReserved: true, ExpiresAt: &u.ExpiresAt, DueAt: u.ExpiresAt,
		Tus: &outbox.Tus{Name: u.Name, ContentType: u.ContentType, Metadata: u.Metadata, SHA256: u.SHA256}})
	if err != nil {
		return Upload{}, err
	}
	if _, err := s.reserve(ctx, u.Owner, reservation{ID: u.ID, Bytes: u.Length, IsResumable: true}, u.Length); err != nil {
		if !errors.Is(err, mongodb.ErrUnknown) {
			err = errors.Join(err, s.purge(context.WithoutCancel(ctx), u.Owner, u.ID)) // sweep deletes the note if this fails
		}
		return Upload{}, err
	}
	return u, nil
}

// Find returns the upload with the given ID. The error wraps problem.NotFound if the upload does not exist, was
// terminated or has expired, or if it became a file that has since been deleted.
func (s *Store) Find(ctx context.Context, id string) (Upload, error) {
	u, _, err := s.load(ctx, id)
	if err == nil && !u.Stored && s.now().After(u.ExpiresAt) {
		return Upload{}, errNoUpload
	}
	return u, err
}

// load is like Find, but it accepts expired uploads and also returns the last piece (range of bytes). The piece is
// the zero value if the upload is empty or already a file.
func (s *Store) load(ctx context.Context, id string) (Upload, piece, error) {
	file, err := uuid.Parse(id)
	if err != nil || file.String() != id {
		return Upload{}, piece{}, errNoUpload
	}
	note, err := s.Notes.Note(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	var last piece
	if note != nil && note.Tus != nil {
		var sealed bool
		if last, sealed, err = s.tail(ctx, id); err != nil {
			return Upload{}, piece{}, err
		} else if sealed {
			return Upload{}, piece{}, errNoUpload
		}
	}
	doc, err := s.document(ctx, id)
	switch {
	case err != nil:
		return Upload{}, piece{}, err
	case doc.live():
		return Upload{ID: id, Owner: doc.Metadata.Owner, Name: doc.Filename, ContentType: doc.Metadata.ContentType,
			SHA256: doc.Metadata.SHA256, Length: doc.Length, Offset: doc.Length, Stored: true}, piece{}, nil
	case doc != nil, note == nil, note.Tus == nil:
		return Upload{}, piece{}, errNoUpload
	}
	u := Upload{id: file, ID: id, Owner: note.Owner, Name: note.Tus.Name, ContentType: note.Tus.ContentType, Metadata: note.Tus.Metadata,
		SHA256: note.Tus.SHA256, Length: note.Length}
	if note.ExpiresAt != nil {
		u.ExpiresAt = note.ExpiresAt.UTC()
	}
	repaired, err := s.repair(ctx, file, u.Length, last)
	if err == nil && repaired.end() > last.end() {
		err = s.stillOpen(ctx, u) // the repair has inserted journal entries
	}
	if err != nil {
		return Upload{}, piece{}, err
	}
	last = repaired
	u.Offset = last.end()
	return u, last, nil
}

// repair completes an upload's last write if the writer was killed. The caller passes the journal's last piece (range
// of bytes). The result is the last piece after the repair.
func (s *Store) repair(ctx context.Context, file uuid.UUID, length int64, last piece) (piece, error) {
	for {
		// If the last piece ends a chunk but its bytes are still in the journal, write the complete chunk to fs.chunks.
		if last.Apart && endsChunk(last.end(), length) {
			if err := s.assemble(ctx, file, last.end()); err != nil {
				return piece{}, err
			}
		}
		if last.end()%chunkSize != 0 || last.end() == length {
			return last, nil
		}
		// If the next chunk exists but has no journal entry, insert the entry.
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
		if err := s.insertPiece(ctx, last); err != nil && !errors.Is(err, errTaken) {
			return piece{}, err
		}
	}
}
