package content_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// previousChunkID returns the _id that the previous version gave to chunk n of a file. It has only 40 random bits.
func previousChunkID(id string, n int) bson.ObjectID {
	file := uuid.MustParse(id)
	var chunk bson.ObjectID
	seconds, _ := file.Time().UnixTime()
	binary.BigEndian.PutUint32(chunk[:4], uint32(seconds))
	copy(chunk[4:9], file[11:])
	chunk[11] = byte(n)
	return chunk
}

// TestChunkIDCollision proves that an upload neither reads nor replaces a chunk of another file, even if the _id of that
// chunk is the _id of a chunk of the upload.
func TestChunkIDCollision(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	chunks := db.Collection("fs.chunks")
	for name, id := range map[string]func(id string) (chunk bson.ObjectID){
		"of this version": func(id string) (chunk bson.ObjectID) {
			file := uuid.MustParse(id)
			copy(chunk[:9], file[7:])
			return chunk
		},
		"of the previous version": func(id string) bson.ObjectID { return previousChunkID(id, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			u := servertest.CreateUpload(t, s, mebi)
			secret := bson.D{{Key: "_id", Value: id(u.ID)}, {Key: "files_id", Value: uuid.NewString()}, {Key: "n", Value: int32(0)}, {Key: "data", Value: []byte("secret")}}
			if _, err := chunks.InsertOne(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			wantOffset(t, s, u.ID, 0)
			for _, b := range [][]byte{make([]byte, 5), make([]byte, mebi-5)} { // the second Append assembles the chunk
				if found, err := s.Find(t.Context(), u.ID); err == nil {
					_, _ = s.Append(t.Context(), u.ID, found.Offset, bytes.NewReader(b)) // can fail with a conflict
				}
			}
			if n := servertest.CountDocuments(t, chunks, secret); n != 1 {
				t.Errorf("got %d unchanged chunks of the other file, want 1", n)
			}
		})
	}
}

// TestChunksOfPreviousVersion proves that a file and a resumable upload with chunks of the previous version can be read,
// continued and deleted.
func TestChunksOfPreviousVersion(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	chunks := db.Collection("fs.chunks")
	// rename gives a chunk the _id of the previous version.
	rename := func(id string, n int) {
		t.Helper()
		filter := bson.D{{Key: "files_id", Value: id}, {Key: "n", Value: n}}
		var chunk bson.D
		if err := chunks.FindOneAndDelete(t.Context(), filter).Decode(&chunk); err != nil {
			t.Fatal(err)
		}
		chunk[0].Value = previousChunkID(id, n)
		if _, err := chunks.InsertOne(t.Context(), chunk); err != nil {
			t.Fatal(err)
		}
	}
	want := servertest.RandomBytes(2*mebi + 5)
	f, err := put(t.Context(), s, want)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		rename(f.ID, n)
	}
	if got, err := io.ReadAll(s.Reader(t.Context(), f)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Reader: got %d bytes and error %v, want %d bytes", len(got), err, len(want))
	}
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want[:mebi+300])
	rename(u.ID, 0)
	rename(u.ID, 1)
	servertest.AddPiece(t, s, u.ID, mebi+300, want[mebi+300:])
	wantFinished(t, s, db, u.ID, want)
	deleteFile(t, s, f.ID)
	deleteFile(t, s, u.ID)
	wantEmpty(t, db)
}
