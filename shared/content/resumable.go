package content

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// A resumable upload is a file whose bytes come in as many requests as it takes, at any replica. Nothing is locked.
// Its bytes are a chain of pieces, and a piece is added by the insert of one document whose _id follows from the
// file and the piece's offset: of two writers at one offset, one gets a duplicate key and stops. So the chain is
// linear whoever writes, and whoever dies while writing.
//
//   - A piece that starts where a chunk starts is inserted as that chunk, in fs.chunks: whole, or short where the
//     request ended. A document in uploads.journal then notes its length and the state of the SHA-256 after it. Who
//     finds a chunk without its note (its writer was killed) writes the note.
//   - A piece that starts inside of a chunk is inserted with its bytes in uploads.journal. When the chunk's last byte
//     is there, the chunk is replaced by the whole, which follows from the chain: whoever does it, and as often as it is
//     done, it comes out the same.
//   - The end is a document of the journal as well, the seal: it says whether the upload was completed or terminated,
//     and one of them only. After a seal that says complete, the files document is inserted: the commit, as of any
//     file. Then the journal is not needed any more.

// Upload is a file on its way in, in more than one request.
type Upload struct {
	// ID is a UUIDv7, made by Create. It is also the id of the file that the upload becomes.
	ID string
	// Owner is the user's id.
	Owner string
	Name  string
	// ContentType is the media type with its parameters; where it is empty the file's is told from its first bytes.
	ContentType string
	// Metadata is what the client declared, for it to read again.
	Metadata string
	// Length is how many bytes the file has, Offset how many of them are there.
	Length, Offset int64
	// ExpiresAt is when the upload ends that is not complete.
	ExpiresAt time.Time
	// Stored tells that the upload is a file by now, Unconfirmed that its event may not have reached the broker.
	Stored, Unconfirmed bool
}

// Complete tells whether all bytes are there.
func (u Upload) Complete() bool { return u.Offset == u.Length }

var (
	errNoUpload = problem.NotFound.With("there is no such upload")
	// errTaken is what a writer gets whose piece is not the next one of the chain, or not any more.
	errTaken = problem.Conflict.With("the bytes at this offset are there already, or the ones before it are not: ask for the offset")
)

// Create opens a resumable upload with what u says except ID and Offset, and returns it.
func (s *Store) Create(ctx context.Context, u Upload) (Upload, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Upload{}, fmt.Errorf("make a file id: %w", err)
	}
	u.ID, u.Offset = id.String(), 0
	u.ExpiresAt = u.ExpiresAt.UTC().Truncate(time.Millisecond)
	return u, s.open(ctx, openDocument{ID: u.ID, Owner: u.Owner, Length: u.Length, ExpiresAt: &u.ExpiresAt,
		Tus: &tusDocument{u.Name, u.ContentType, u.Metadata}})
}

// Find returns the upload with the given id. One that was terminated, that expired, or whose file was deleted is
// problem.NotFound, as one that never was.
func (s *Store) Find(ctx context.Context, id string) (Upload, error) {
	u, _, err := s.find(ctx, id)
	if err == nil && !u.Stored && time.Now().After(u.ExpiresAt) {
		return Upload{}, errNoUpload
	}
	return u, err
}

// find is Find, with the last piece of the chain. It returns expired uploads too.
func (s *Store) find(ctx context.Context, id string) (Upload, piece, error) {
	file, err := uuid.Parse(id)
	if err != nil || file.String() != id {
		return Upload{}, piece{}, errNoUpload
	}
	open, err := s.opened(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	if open == nil || open.Tus == nil {
		return s.findStored(ctx, id, open != nil)
	}
	last, seal, err := s.tail(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	// After the journal: while there is no files document, nothing of the journal has been deleted.
	if u, _, err := s.findStored(ctx, id, true); !errors.Is(err, problem.NotFound) {
		return u, piece{}, err
	}
	if seal != "" && seal != sealComplete {
		return Upload{}, piece{}, errNoUpload
	}
	u := Upload{ID: id, Owner: open.Owner, Name: open.Tus.Name, ContentType: open.Tus.ContentType, Metadata: open.Tus.Metadata, Length: open.Length}
	if open.ExpiresAt != nil {
		u.ExpiresAt = open.ExpiresAt.UTC()
	}
	if last, err = s.mend(ctx, file, u.Length, last); err != nil {
		return Upload{}, piece{}, err
	}
	u.Offset = last.end()
	return u, last, nil
}

// findStored returns the upload that has become the file with the given id.
func (s *Store) findStored(ctx context.Context, id string, unconfirmed bool) (Upload, piece, error) {
	f, err := s.Get(ctx, id)
	if errors.Is(err, problem.NotFound) {
		return Upload{}, piece{}, errNoUpload
	}
	if err != nil {
		return Upload{}, piece{}, err
	}
	// A client that has an upload's address in store from before would take a file for kept that its owner deleted.
	buried, err := s.Buried(ctx, id)
	if err != nil {
		return Upload{}, piece{}, err
	}
	if buried {
		return Upload{}, piece{}, errNoUpload
	}
	return Upload{ID: id, Owner: f.Owner, Name: f.Name, ContentType: f.ContentType, Length: f.Size, Offset: f.Size,
		Stored: true, Unconfirmed: unconfirmed}, piece{}, nil
}

// mend does what a writer that was killed left undone after the last piece of a chain, and returns the last piece then.
func (s *Store) mend(ctx context.Context, file uuid.UUID, length int64, last piece) (piece, error) {
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
		if errors.Is(err, mongo.ErrNoDocuments) {
			return last, nil
		}
		if err != nil {
			return piece{}, mongodb.Problem(err, "look for the next chunk of upload "+file.String())
		}
		if len(data) == 0 || last.end()+int64(len(data)) > length {
			return piece{}, fmt.Errorf("upload %s of %d bytes is broken: at %d there is a chunk of %d", file, length, last.end(), len(data))
		}
		sum, err := last.hash()
		if err != nil {
			return piece{}, err
		}
		_, _ = sum.Write(data) // never fails
		if last, err = last.next(file, len(data), sum); err != nil {
			return piece{}, err
		}
		if err := s.note(ctx, last); err != nil {
			return piece{}, err
		}
	}
}

// chunk returns the bytes of chunk n of a file, or an error of the driver.
func (s *Store) chunk(ctx context.Context, file uuid.UUID, n int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	raw, err := s.chunks.FindOne(ctx, bson.D{{Key: "_id", Value: chunkID(file, int32(n))}}).Raw()
	if err != nil {
		return nil, err
	}
	_, data, _ := raw.Lookup("data").BinaryOK()
	return data, nil
}
