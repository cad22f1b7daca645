package content

import (
	"context"
	"encoding/hex"
	"errors"
	"math"
	"net/http"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// These are the outcomes that an upload's seal (its last journal document) can contain.
const (
	sealComplete   = "complete"
	sealTerminated = "terminated"
	sealExpired    = "expired"
)

// sniffed is the maximum number of bytes that http.DetectContentType examines.
const sniffed = 512

// errSealGone reports that an upload's seal (the last document in its journal) was deleted before it could be read,
// because another caller committed or discarded the upload at the same time.
var errSealGone = errors.New("the upload's journal was deleted")

// sealDocument is the last document in an upload's journal (the seal). Its By field records how the upload ended. After
// the seal is inserted, no other outcome can be recorded.
type sealDocument struct {
	ID string `bson:"_id"`
	By string `bson:"by"`
}

// sealID returns the _id of an upload's seal. This _id sorts after the IDs of all the upload's pieces.
func sealID(file string) string { return file + "/end" }

// seal records the given outcome of an upload, unless an outcome is already recorded. It returns the recorded outcome.
// The error is errSealGone if the document with the recorded outcome is deleted before it can be read.
func (s *Store) seal(ctx context.Context, id, outcome string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.journal.InsertOne(ctx, sealDocument{sealID(id), outcome})
	if !mongo.IsDuplicateKeyError(err) {
		return outcome, mongodb.Problem(err, "record the outcome of upload "+id)
	}
	first, err := read[sealDocument](ctx, s.journal, sealID(id))
	if err != nil {
		return "", err
	}
	if first == nil {
		return "", errSealGone
	}
	return first.By, nil
}

// end records the given outcome of an upload, so that the upload cannot become a file. The error wraps problem.Conflict
// if the upload is already a file or is already recorded as complete.
func (s *Store) end(ctx context.Context, id, outcome string) error {
	complete := problem.Conflict.With("the upload is complete: delete the file /files/%s instead", id)
	first, err := s.seal(ctx, id, outcome)
	if errors.Is(err, errSealGone) || first == sealComplete {
		return complete
	}
	if err != nil {
		return err
	}
	// Check whether the upload is already a file, because after Finish has committed the upload and deleted the
	// recorded outcome, a new outcome can be recorded.
	if _, err := s.Get(ctx, id); err == nil {
		return errors.Join(complete, s.dropJournal(ctx, id))
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	return nil
}

// Finish turns the complete upload with the given ID into a file, and returns the file. To create the file's event, it
// calls its finish parameter with the file. If the upload is already a file, Finish returns that file.
//
// Finish can be called concurrently, and again after an interrupted call. The result is always one file with one
// event. Finish also accepts an expired upload.
//
// If not all bytes have arrived, the error wraps problem.Conflict. If the upload does not exist or was terminated, the
// error wraps problem.NotFound.
func (s *Store) Finish(ctx context.Context, id string, finish func(*File) (event []byte, err error)) (File, error) {
	for stored := false; !stored; {
		u, last, err := s.load(ctx, id)
		if err != nil {
			return File{}, err
		}
		if stored = u.Stored; stored {
			continue
		}
		if !u.Complete() {
			return File{}, problem.Conflict.With("the upload is incomplete: %d of %d bytes have arrived", u.Offset, u.Length)
		}
		err = s.commitUpload(ctx, u, last, finish)
		if stored = err == nil; !stored && !errors.Is(err, errSealGone) {
			return File{}, err
		}
	}
	// Read the file from the store, because another caller might have committed the upload first, with a different
	// StoredAt.
	f, err := s.Get(ctx, id)
	if err != nil {
		return File{}, err
	}
	return f, s.dropJournal(ctx, id)
}

// commitUpload records that the upload u is complete, and inserts its document into fs.files. The parameter last is the
// upload's last piece, which contains the hash of the whole file.
func (s *Store) commitUpload(ctx context.Context, u Upload, last piece, finish func(*File) ([]byte, error)) error {
	outcome, err := s.seal(ctx, u.ID, sealComplete)
	if err != nil {
		return err
	}
	if outcome != sealComplete {
		return errNoUpload
	}
	if err := s.hasEnd(ctx, u); err != nil {
		return err
	}
	sum, err := last.hash()
	if err != nil {
		return err
	}
	f := File{Info: file.Info{ID: u.ID, Owner: u.Owner, Name: u.Name, Size: u.Length, SHA256: hex.EncodeToString(sum.Sum(nil)),
		ContentType: u.ContentType}, chunkSize: chunkSize}
	if f.ContentType == "" {
		start, err := s.start(ctx, f)
		if err != nil {
			return err
		}
		f.ContentType = http.DetectContentType(start)
	}
	f.StoredAt = s.now().UTC().Truncate(time.Millisecond)
	event, err := finish(&f)
	if err != nil {
		return err
	}
	return mongodb.Problem(s.commit(ctx, f, event), "commit file "+f.ID)
}

// hasEnd returns errNoUpload if the last chunk of a complete upload does not exist. This check is necessary, because a
// concurrent Discard deletes the chunks and then the recorded outcome, so Finish can record the outcome "complete" for
// an upload that no longer has any bytes.
func (s *Store) hasEnd(ctx context.Context, u Upload) error {
	if u.Length == 0 {
		return nil
	}
	last, err := read[chunkDocument](ctx, s.chunks, chunkID(u.id, int32((u.Length-1)/chunkSize)), options.FindOne().SetProjection(bson.D{{Key: "n", Value: 1}}))
	if err == nil && last == nil {
		err = errNoUpload
	}
	return err
}

// start returns the first bytes of a file, up to the number that http.DetectContentType examines.
func (s *Store) start(ctx context.Context, f File) ([]byte, error) {
	buf := make([]byte, sniffed)
	n, err := fill(s.Reader(ctx, f), buf)
	return buf[:n], unlessEOF(err)
}

// Terminate ends the upload with the given ID and deletes its bytes. The error wraps problem.Conflict if the upload is
// already a file or if Finish has begun to turn it into a file.
func (s *Store) Terminate(ctx context.Context, id string) error {
	if _, _, err := s.load(ctx, id); err != nil {
		return err
	}
	if err := s.end(ctx, id, sealTerminated); err != nil {
		return err
	}
	if err := s.deleteChunks(context.WithoutCancel(ctx), id); err != nil {
		return err
	}
	// Keep the upload record and the journal, because a concurrent writer can still add bytes. Set the expiry time to
	// now, so that the sweep function deletes the remaining data later, when no such writer can be running anymore. Set
	// the length to 0, so that Usage no longer counts the upload and stillOpen detects that the upload has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.uploads.UpdateOne(ctx, bson.D{{Key: "_id", Value: id}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "length", Value: int64(0)}, {Key: "expires_at", Value: s.now().UTC()}}}})
	return mongodb.Problem(err, "mark upload "+id+" as expired")
}

// tusDocument contains the fields of an upload record that only a resumable upload has.
type tusDocument struct {
	Name        string `bson:"name"`
	ContentType string `bson:"content_type"`
	Metadata    string `bson:"metadata"`
}

// dropJournal deletes an upload's journal. It deletes the seal (the recorded outcome) last, so that the outcome remains
// known while pieces exist.
func (s *Store) dropJournal(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	for _, filter := range []bson.D{inChain(id, 0, math.MaxInt64), {{Key: "_id", Value: sealID(id)}}} {
		if _, err := s.journal.DeleteMany(ctx, filter); err != nil {
			return mongodb.Problem(err, "delete the journal of upload "+id)
		}
	}
	return nil
}
