package servertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

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

// Usage is the recorded usage of a user.
type Usage struct {
	Bytes int64 `bson:"bytes"`
	Files int64 `bson:"files"`
	// Counting is not empty while the files of the user are being counted.
	Counting     string   `bson:"counting"`
	Reservations []bson.M `bson:"reservations"`
}

// LatestUsage returns the latest version of the owner's usage, or the zero value if the owner has no usage.
func LatestUsage(t *testing.T, db *mongo.Database, owner string) Usage {
	t.Helper()
	var version struct {
		Value Usage `bson:"value"`
	}
	newest := options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}})
	err := db.Collection("usage").FindOne(t.Context(), bson.D{{Key: "key", Value: owner}}, newest).Decode(&version)
	if err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
		t.Fatal(err)
	}
	return version.Value
}

// SumOfFiles returns the total size and the number of the owner's files.
func SumOfFiles(ctx context.Context, db *mongo.Database, owner string) (bytes, files int64, err error) {
	cursor, err := db.Collection("fs.files").Find(ctx, bson.D{{Key: "metadata.owner", Value: owner}})
	var found []struct {
		Length int64 `bson:"length"`
	}
	if err == nil {
		err = cursor.All(ctx, &found)
	}
	for _, f := range found {
		bytes += f.Length
	}
	return bytes, int64(len(found)), err
}

// WantUsage fails the test unless the owner's usage equals the sum of the owner's files, without reservations.
func WantUsage(t *testing.T, db *mongo.Database, owner string) {
	t.Helper()
	bytes, files, err := SumOfFiles(t.Context(), db, owner)
	if err != nil {
		t.Fatal(err)
	}
	if got := LatestUsage(t, db, owner); got.Bytes != bytes || got.Files != files || got.Counting != "" || len(got.Reservations) > 0 {
		t.Errorf("got the usage %+v of %s, want %d bytes in %d files and no reservations", got, owner, bytes, files)
	}
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
