package content

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// What a seal says.
const (
	sealComplete   = "complete"
	sealTerminated = "terminated"
	sealExpired    = "expired"
)

// sniffed is how many bytes http.DetectContentType looks at.
const sniffed = 512

// errSealGone is what seal gets that comes when all is over: the upload was completed, and its journal deleted.
var errSealGone = errors.New("the upload's journal is gone")

// sealID is the _id of the document that ends a chain. It sorts after the pieces.
func sealID(file string) string { return file + "/end" }

// seal ends the chain of an upload, unless that is done, and returns what its one seal says.
func (s *Store) seal(ctx context.Context, id, by string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.journal.InsertOne(ctx, bson.D{{Key: "_id", Value: sealID(id)}, {Key: "by", Value: by}})
	if !mongo.IsDuplicateKeyError(err) {
		return by, mongodb.Problem(err, "seal upload "+id)
	}
	var first struct {
		By string `bson:"by"`
	}
	err = s.journal.FindOne(ctx, bson.D{{Key: "_id", Value: sealID(id)}}).Decode(&first)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return "", errSealGone
	}
	return first.By, mongodb.Problem(err, "read the seal of upload "+id)
}

// end seals an upload that shall not become a file. If it is one, or about to be one, that is problem.Conflict.
func (s *Store) end(ctx context.Context, id, by string) error {
	complete := problem.Conflict.With("the upload is complete: delete the file /files/%s instead", id)
	first, err := s.seal(ctx, id, by)
	if errors.Is(err, errSealGone) || first == sealComplete {
		return complete
	}
	if err != nil {
		return err
	}
	// The seal of one that is committed may have been deleted before this one was made, but then the file is there.
	if _, err := s.Get(ctx, id); err == nil {
		return errors.Join(complete, s.dropJournal(ctx, id))
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	return nil
}

// Finish makes the upload with the given id, whose bytes must all be there, a file, as Put does at its end: finish gets the
// file and returns the event that its document shall carry. It returns the file and its event. Several may call it at
// once: one file comes of it, with one event. It goes on where another call was killed, and for an upload that expired too.
//
// An upload whose bytes are not all there is problem.Conflict, one that was terminated problem.NotFound.
func (s *Store) Finish(ctx context.Context, id string, finish func(*File) (event []byte, err error)) (File, []byte, error) {
	for stored := false; !stored; {
		u, last, err := s.find(ctx, id)
		if err != nil {
			return File{}, nil, err
		}
		if stored = u.Stored; stored {
			continue
		}
		if !u.Complete() {
			return File{}, nil, problem.Conflict.With("%d of the upload's %d bytes are there", u.Offset, u.Length)
		}
		err = s.commitUpload(ctx, u, last, finish)
		if stored = err == nil; !stored && !errors.Is(err, errSealGone) {
			return File{}, nil, err
		}
	}
	// The document that is there may be another writer's.
	f, err := s.Get(ctx, id)
	if err != nil {
		return File{}, nil, err
	}
	event, err := s.Event(ctx, id)
	if err != nil {
		return File{}, nil, err
	}
	return f, event, s.dropJournal(ctx, id)
}

// commitUpload inserts the files document of a complete upload.
func (s *Store) commitUpload(ctx context.Context, u Upload, last piece, finish func(*File) ([]byte, error)) error {
	by, err := s.seal(ctx, u.ID, sealComplete)
	if err != nil {
		return err
	}
	if by != sealComplete {
		return errNoUpload
	}
	if err := s.hasEnd(ctx, u); err != nil {
		return err
	}
	f := File{ID: u.ID, Owner: u.Owner, Name: u.Name, ContentType: u.ContentType, Size: u.Length, chunkSize: chunkSize}
	if f.SHA256, err = last.digest(); err != nil {
		return err
	}
	if f.ContentType == "" {
		start, err := s.start(ctx, f)
		if err != nil {
			return err
		}
		f.ContentType = http.DetectContentType(start)
	}
	f.StoredAt = time.Now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return err
	}
	return mongodb.Problem(s.commit(ctx, f, event), "commit file "+f.ID)
}

// hasEnd checks that the last chunk of a complete upload is there: one that was discarded has lost its bytes before its
// seal, and could be sealed a second time.
func (s *Store) hasEnd(ctx context.Context, u Upload) error {
	file, err := uuid.Parse(u.ID)
	if err != nil || u.Length == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := bson.D{{Key: "_id", Value: chunkID(file, int32((u.Length-1)/chunkSize))}}
	_, err = s.chunks.FindOne(ctx, id, options.FindOne().SetProjection(bson.D{{Key: "n", Value: 1}})).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return errNoUpload
	}
	return mongodb.Problem(err, "look for the end of upload "+u.ID)
}

// start returns the first bytes of a file, as many as tell its type.
func (s *Store) start(ctx context.Context, f File) ([]byte, error) {
	buf := make([]byte, sniffed)
	n, err := fill(s.Reader(ctx, f), buf)
	return buf[:n], unlessEOF(err)
}

// Terminate ends the upload with the given id and deletes its bytes. If it is a file already, or about to be one, that is
// problem.Conflict.
func (s *Store) Terminate(ctx context.Context, id string) error {
	if _, _, err := s.find(ctx, id); err != nil {
		return err
	}
	if err := s.end(ctx, id, sealTerminated); err != nil {
		return err
	}
	if err := s.discard(context.WithoutCancel(ctx), id); err != nil {
		return err
	}
	// A writer may not have noticed yet. So the rest, and what that writer adds, is left to the sweep, which takes an upload
	// away when no request can be left that began before it expired.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.uploads.UpdateOne(ctx, bson.D{{Key: "_id", Value: id}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "length", Value: int64(0)}, {Key: "expires_at", Value: time.Now().UTC()}}}})
	return mongodb.Problem(err, "end upload "+id)
}

// tusDocument is what is noted of a resumable upload besides what is noted of any.
type tusDocument struct {
	Name        string `bson:"name"`
	ContentType string `bson:"content_type"`
	Metadata    string `bson:"metadata"`
}

// dropJournal deletes the journal of an upload, the seal last: as long as there are pieces, it says what they are.
func (s *Store) dropJournal(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	for _, filter := range []bson.D{inChain(id, 0, math.MaxInt64), {{Key: "_id", Value: sealID(id)}}} {
		if _, err := s.journal.DeleteMany(ctx, filter); err != nil {
			return mongodb.Problem(err, "delete the journal of upload "+id)
		}
	}
	return nil
}
