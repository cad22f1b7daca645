package servertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// OpenContent opens a file store in the database that uri names, and creates the database's indexes. It returns the
// store and the database.
func OpenContent(t *testing.T, uri string) (*content.Store, *mongo.Database) {
	t.Helper()
	s, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, Database(t, uri)
}

// StoreFile stores a file in the database that uri names. It returns the file's event, which is not published, and the
// file's metadata.
func StoreFile(t *testing.T, uri string) (event.Event, file.Info) {
	t.Helper()
	s, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var e event.Event
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Name: "größe \"1\".txt", ContentType: "text/plain", Size: 1}},
		bytes.NewReader([]byte("x")), func(f *content.File) (encoded []byte, err error) {
			if e, err = events.NewFileStored(t.Context(), f.Info); err != nil {
				return nil, err
			}
			return e.MarshalJSON()
		})
	if err != nil {
		t.Fatal(err)
	}
	return e, f.Info
}

// RandomBytes returns n pseudorandom bytes, which are the same in every run.
func RandomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never returns an error
	return b
}

// SHA256 returns the SHA-256 digest of b in hexadecimal.
func SHA256(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// NewReader returns a reader for a sequence of zero bytes. The left parameter is the sequence's length. After the last
// byte, the reader returns the error that the end function returns.
func NewReader(left int, end func() error) io.Reader { return &reader{left, end} }

// reader is the reader that NewReader returns.
type reader struct {
	left int
	end  func() error
}

func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.end()
	}
	n := min(len(p), r.left)
	r.left -= n
	return n, nil
}

// CreateUpload creates a resumable upload for ada.
func CreateUpload(t *testing.T, s *content.Store, length int) content.Upload {
	t.Helper()
	u, err := s.Create(t.Context(), content.Upload{Owner: "ada", Name: "notes Ω.txt", ContentType: "text/plain", Metadata: "filename bm90ZXM=",
		Length: int64(length), ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// AddPiece appends b to an upload at the given offset. The test fails if not all bytes are added.
func AddPiece(t *testing.T, s *content.Store, id string, offset int, b []byte) {
	t.Helper()
	if added, err := s.Append(t.Context(), id, int64(offset), bytes.NewReader(b)); err != nil || added != int64(len(b)) {
		t.Fatalf("Append at offset %d: got %d bytes and error %v, want %d bytes and no error", offset, added, err, len(b))
	}
}

// WantNoJournal checks that the uploads.journal collection contains no documents for an upload.
func WantNoJournal(t *testing.T, db *mongo.Database, id string) {
	t.Helper()
	if n := CountDocuments(t, db.Collection("uploads.journal"), bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: id}, {Key: "$lt", Value: id + "~"}}}}); n != 0 {
		t.Errorf("got %d documents in the journal of upload %s, want none", n, id)
	}
}
