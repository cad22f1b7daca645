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

// errSealGone reports that an upload's seal (the recorded outcome) was deleted before it could be read, because
// another caller has just committed or discarded the upload.
var errSealGone = errors.New("the upload's journal was deleted")

// sealDocument is the seal, the last document in an upload's journal. The By field contains the upload's outcome.
// Once the seal exists, no other outcome can be recorded.
type sealDocument struct {
	ID string `bson:"_id"`
	By string `bson:"by"`
}

// sealID returns the _id of an upload's seal (the last document in the journal). This _id sorts after the _id of
// every piece of the upload.
func sealID(file string) string { return file + "/end" }

// seal records the outcome of an upload, unless an outcome is already recorded. It returns the recorded outcome, or
// errSealGone if the record has just been deleted.
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

// end records the outcome of an upload that must not become a file. If Finish has already begun to turn the upload
// into a file, the error wraps problem.Conflict.
func (s *Store) end(ctx context.Context, id, outcome string) error {
	complete := problem.Conflict.With("the upload is complete: delete the file /files/%s instead", id)
	first, err := s.seal(ctx, id, outcome)
	if errors.Is(err, errSealGone) || first == sealComplete {
		return complete
	}
	if err != nil {
		return err
	}
	// Check whether the file already exists. Finish deletes the recorded outcome after the commit, so the call to
	// seal can succeed even though the upload has become a file.
	if _, err := s.Get(ctx, id); err == nil {
		return errors.Join(complete, s.dropJournal(ctx, id))
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	return nil
}

// Finish turns a complete upload into a file, even if the upload has expired. Concurrent and repeated calls return
// the same file, and only one event is stored for it. The error wraps problem.Conflict if bytes are missing, or
// problem.NotFound if the upload does not exist or was terminated.
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

// commitUpload records the outcome "complete" and inserts the fs.files document. The caller passes the upload's last
// piece (range of bytes), which contains the hash state for the whole file.
func (s *Store) commitUpload(ctx context.Context, u Upload, last piece, finish func(*File) ([]byte, error)) error {
	outcome, err := s.seal(ctx, u.ID, sealComplete)
	if err != nil {
		return err
	}
	if outcome != sealComplete {
		return errNoUpload
	}
	// A concurrent call to Discard might have deleted the chunks and the recorded outcome before seal recorded a new
	// outcome. Therefore, check that the bytes still exist.
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

// hasEnd returns errNoUpload if the last chunk of a complete upload does not exist.
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

// start returns the first bytes of a file, at most as many as http.DetectContentType examines.
func (s *Store) start(ctx context.Context, f File) ([]byte, error) {
	buf := make([]byte, sniffed)
	n, err := fill(s.Reader(ctx, f), buf)
	return buf[:n], unlessEOF(err)
}

// Terminate ends the upload with the given ID and deletes its bytes. If Finish has already begun to turn the
// upload into a file, the error wraps problem.Conflict.
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
	// Keep the upload record and the journal, because a concurrent writer might still be adding bytes. The upload is
	// marked as expired, so the sweep function deletes all remaining data after the ORPHAN_GRACE period.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	// Set the length to 0, so that Usage does not count the upload and stillOpen detects that the upload has ended.
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

// dropJournal deletes an upload's journal. It deletes the seal (the recorded outcome) last, so that the outcome
// remains known until all pieces (ranges of bytes) are deleted.
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
