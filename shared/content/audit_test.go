//go:build audit

package content_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditFinishWithHole checks data A7: Finish refuses an upload that lacks a chunk in the middle.
func TestAuditFinishWithHole(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(3 * mebi)
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want)
	// A failover can roll the chunk back and keep the note of the chunk.
	if _, err := db.Collection("fs.chunks").DeleteOne(t.Context(), bson.D{{Key: "files_id", Value: u.ID}, {Key: "n", Value: 1}}); err != nil {
		t.Fatal(err)
	}
	if f, err := s.Finish(t.Context(), u.ID, anyEvent); err == nil {
		t.Errorf("got file %s, want an error", f.ID)
	}
}

// TestAuditChunkIDs checks data A6: an upload neither reads nor replaces a chunk of another file, also if the ids of the two files end alike.
func TestAuditChunkIDs(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	u := servertest.CreateUpload(t, s, mebi)
	ada := uuid.MustParse(u.ID)
	grace := ada
	grace[8] ^= 1 // one of the bits of a file's id that are not in the id of its chunks
	// chunkID in shared/content makes the same id of both.
	var chunk bson.ObjectID
	seconds, _ := ada.Time().UnixTime()
	binary.BigEndian.PutUint32(chunk[:4], uint32(seconds))
	copy(chunk[4:9], ada[11:])
	secret := []byte("grace's secret")
	for collection, document := range map[string]bson.D{
		"fs.chunks": {{Key: "_id", Value: chunk}, {Key: "files_id", Value: grace.String()}, {Key: "n", Value: int32(0)}, {Key: "data", Value: secret}},
		"fs.files": {{Key: "_id", Value: grace.String()}, {Key: "length", Value: int64(len(secret))}, {Key: "chunkSize", Value: int32(mebi)}, {Key: "uploadDate", Value: time.Now()},
			{Key: "filename", Value: "x"}, {Key: "metadata", Value: bson.D{{Key: "owner", Value: "grace"}, {Key: "content_type", Value: "text/plain"}, {Key: "sha256", Value: servertest.SHA256(secret)}, {Key: "event", Value: "{}"}}}},
	} {
		if _, err := db.Collection(collection).InsertOne(t.Context(), document); err != nil {
			t.Fatal(err)
		}
	}
	found, err := s.Find(t.Context(), u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if found.Offset != 0 {
		t.Errorf("got offset %d of ada's new upload, want 0", found.Offset)
	}
	_, _ = s.Append(t.Context(), u.ID, found.Offset, bytes.NewReader(bytes.Repeat([]byte("a"), mebi-int(found.Offset)))) // Append can refuse the bytes as well.
	f, err := s.Get(t.Context(), grace.String())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s.Reader(t.Context(), f)); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("got %q and error %v in grace's file, want %q", got, err, secret)
	}
}

// TestAuditSmallPieces checks data C1: a client that was refused for small pieces can complete its upload with large pieces.
func TestAuditSmallPieces(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(2 * mebi)
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want[:10])
	// The journal is then as after 10,000 pieces, which each upload can have.
	if _, err := db.Collection("uploads.journal").UpdateOne(t.Context(), bson.D{{Key: "_id", Value: fmt.Sprintf("%s/%020d", u.ID, 0)}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "index", Value: int64(10_000)}}}}); err != nil {
		t.Fatal(err)
	}
	offset := 10
	for offset < 400 {
		_, err := s.Append(t.Context(), u.ID, int64(offset), bytes.NewReader(want[offset:offset+1]))
		if errors.Is(err, problem.BadRequest) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		offset++
	}
	if _, err := s.Append(t.Context(), u.ID, int64(offset), bytes.NewReader(want[offset:])); err != nil {
		t.Errorf("append the rest at offset %d: got error %v, want none", offset, err)
	}
}

// TestAuditLateWriter checks data C2: a writer that comes after the commit of its upload is refused and leaves nothing in the journal, also before the event is confirmed.
func TestAuditLateWriter(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(2*mebi + 900)
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want[:300])
	r, w := io.Pipe()
	defer r.Close() // ends the writer
	late := make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), u.ID, 300, r)
		late <- err
	}()
	if _, err := w.Write([]byte("f")); err != nil { // Append has found the upload when it reads this byte.
		t.Fatal(err)
	}
	servertest.AddPiece(t, s, u.ID, 300, want[300:])
	if _, err := s.Finish(t.Context(), u.ID, anyEvent); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = w.Write(bytes.Repeat([]byte("forged"), 1000))
		_ = w.Close()
	}()
	if err := <-late; err == nil {
		t.Error("got no error for the late writer, want one")
	}
	if err := s.Confirm(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	servertest.WantNoJournal(t, db, u.ID)
}

// TestAuditFileWithoutMajority checks data A1: Put returns a file only if a majority of the servers has the document of the file.
func TestAuditFileWithoutMajority(t *testing.T) {
	s, err := content.Open(servertest.NullMongoDB(t, servertest.WithoutMajority("insert fs.files")))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := put(t.Context(), s, []byte("hello")); err == nil {
		t.Errorf("got file %s, want an error", f.ID)
	}
}

// TestAuditInterruptedCommit checks data A9: Put keeps the chunks of a file whose document was written, although the wait for the majority was interrupted.
func TestAuditInterruptedCommit(t *testing.T) {
	var mu sync.Mutex
	var deleted []string
	s, err := content.Open(servertest.NullMongoDB(t, func(command, collection string) bson.D {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case command == "delete":
			deleted = append(deleted, collection)
		case command == "insert" && collection == "fs.files":
			return bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(1)}, {Key: "writeConcernError", Value: bson.D{
				{Key: "code", Value: int32(11601)}, {Key: "codeName", Value: "Interrupted"}, {Key: "errmsg", Value: "operation was interrupted"}}}}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = put(t.Context(), s, []byte("hello"))
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(deleted, "fs.chunks") {
		t.Errorf("got error %v and the chunks deleted, want the chunks kept", err)
	}
}
