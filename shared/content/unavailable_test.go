package content_test

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestContentServerUnavailable proves that every call returns problem.Unavailable while MongoDB is down. Afterward, the
// same store and the same reader work again, and no acknowledged file is lost.
func TestContentServerUnavailable(t *testing.T) {
	server := servertest.OwnMongoDB(t)
	s, db := servertest.OpenContent(t, server.NewDatabase(t))
	f, err := put(t.Context(), s, servertest.RandomBytes(2*mebi))
	if err != nil {
		t.Fatal(err)
	}
	kill := func() error {
		if err := server.Kill(); err != nil {
			t.Errorf("kill the server: %v", err)
		}
		return io.EOF
	}
	half := s.Reader(t.Context(), f)
	if _, err := io.CopyN(io.Discard, half, mebi); err != nil {
		t.Fatal(err)
	}
	end := func() error { return io.EOF }
	_, err = s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada"}}, io.MultiReader(
		servertest.NewReader(3*mebi, end), servertest.NewReader(0, kill), servertest.NewReader(3*mebi, end)), anyEvent)
	if !errors.Is(err, problem.Unavailable) {
		t.Errorf("Put: got error %v, want %v", err, problem.Unavailable)
	}
	servertest.WantUnavailable(t, map[string]func() error{
		"Put":           func() error { _, err := put(t.Context(), s, []byte("x")); return err },
		"Get":           func() error { _, err := s.Get(t.Context(), f.ID); return err },
		"CloseNote":     func() error { return s.CloseNote(t.Context(), f.ID) },
		"Delete":        func() error { return s.Delete(t.Context(), f.ID) },
		"EnsureIndexes": func() error { return s.EnsureIndexes(t.Context()) },
		"Reader":        func() error { _, err := io.Copy(io.Discard, half); return err },
	})
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, 20*time.Second, "the reader continues", func() error {
		_, err := io.Copy(io.Discard, half)
		return err
	})
	if _, err := put(t.Context(), s, []byte("x")); err != nil {
		t.Errorf("Put after the restart: got error %v, want nil", err)
	}
	if n := servertest.CountDocuments(t, db.Collection("fs.files"), bson.D{}); n != 2 {
		t.Errorf("got %d files, want the 2 acknowledged files", n)
	}
}

// TestContentCommitUnanswered proves that Put handles a commit without a reply. If one reply is lost, Put succeeds. If
// every reply is lost, Put returns problem.Unavailable, because the outcome is unknown. In both cases, the file exists
// once, and its note exists.
func TestContentCommitUnanswered(t *testing.T) {
	for name, c := range map[string]struct {
		cuts int32 // the number of lost replies; 0 for all replies
		want error
	}{"once": {1, nil}, "always": {0, problem.Unavailable}} {
		t.Run(name, func(t *testing.T) {
			uri := servertest.MongoDB(t).NewDatabase(t)
			u := servertest.ParseURL(t, uri)
			u.Host = servertest.Cut{Text: "fs.files", Forward: true, Times: c.cuts}.Proxy(t, u.Host)
			s, err := content.Open(u.String())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			want := servertest.RandomBytes(2*mebi + 1)
			if _, err := put(t.Context(), s, want); !errors.Is(err, c.want) {
				t.Errorf("Put: got error %v, want %v", err, c.want)
			}
			// The note must exist, so that sweep publishes the event if no other process does.
			var found []struct {
				ID string `bson:"_id"`
			}
			direct := servertest.Database(t, uri)
			cursor, err := direct.Collection("fs.files").Find(t.Context(), bson.D{})
			if err == nil {
				err = cursor.All(t.Context(), &found)
			}
			if err != nil || len(found) != 1 {
				t.Fatalf("got %+v (%v), want one file", found, err)
			}
			if note, err := s.Notes.Note(t.Context(), found[0].ID); err != nil || note == nil {
				t.Errorf("Note: got %+v, %v, want a note", note, err)
			}
			stock, err := direct.GridFSBucket().OpenDownloadStream(t.Context(), found[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(stock); err != nil || !bytes.Equal(got, want) {
				t.Errorf("GridFS of the driver: got %d bytes with the digest %s (%v), want %d bytes with %s",
					len(got), servertest.SHA256(got), err, len(want), servertest.SHA256(want))
			}
		})
	}
}

// TestContentWithoutMajority proves that Put returns a file only if a majority of the servers has the document of the file.
// A duplicate key error is no proof if the server also reports a write concern error.
func TestContentWithoutMajority(t *testing.T) {
	s, err := content.Open(servertest.NullMongoDB(t, servertest.WithoutMajority("insert fs.files")))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := put(t.Context(), s, []byte("hello")); err == nil {
		t.Errorf("got file %s, want an error", f.ID)
	}
}

// TestContentInterruptedCommit proves that Put deletes nothing if it is unknown whether the commit has been done.
func TestContentInterruptedCommit(t *testing.T) {
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
	if !errors.Is(err, problem.Unavailable) || len(deleted) > 0 {
		t.Errorf("Put: got error %v and deletions in %q, want %v and no deletions", err, deleted, problem.Unavailable)
	}
}
