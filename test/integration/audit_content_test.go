//go:build audit

package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// openContent returns a store in a new database, and the URI of the database.
func openContent(t *testing.T) (*content.Store, string) {
	t.Helper()
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, _ := servertest.OpenContent(t, uri)
	return s, uri
}

// TestAuditCommitAfterSweep checks data A2: a file that Put returns can be read, also if sweep discarded the upload before the commit.
func TestAuditCommitAfterSweep(t *testing.T) {
	s, uri := openContent(t)
	// The short ORPHAN_GRACE stands for a clock that differs by minutes, or for a process that was frozen.
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=1s")
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: -1}}, servertest.NewReader(2*mebi+1, func() error {
		time.Sleep(2500 * time.Millisecond)
		postSweep(t, sweep)
		return io.EOF
	}), eventOf)
	if err != nil {
		return // Put can refuse the file as well.
	}
	if n, err := io.Copy(io.Discard, s.Reader(t.Context(), f)); err != nil || n != f.Size {
		t.Errorf("got %d bytes of file %s and error %v, want %d bytes", n, f.ID, err, f.Size)
	}
	if confirmed, err := s.Confirmed(t.Context(), f.ID); err != nil || confirmed {
		t.Errorf("got no note of the pending event of file %s and error %v, want a note", f.ID, err)
	}
}

// TestAuditDeletedUpload checks data A3: a file that came by tus stays deleted when its client or sweep visits the upload during the deletion.
func TestAuditDeletedUpload(t *testing.T) {
	for name, visit := range map[string]func(t *testing.T, u *uploader, sweep, id string){
		"the client asks for the offset": func(t *testing.T, u *uploader, _, id string) {
			if _, _, err := u.askTus(t.Context(), http.MethodHead, u.urls[0]+"/upload/tus/"+id, nil); err != nil {
				t.Fatal(err)
			}
		},
		"sweep": func(t *testing.T, _ *uploader, sweep, _ string) { postSweep(t, sweep) },
	} {
		t.Run(name, func(t *testing.T) {
			const grace = 3 * time.Second
			sink := startSink(t)
			u := startUpload(t, 1, sink)
			sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+sink, "PENDING_GRACE="+grace.String(), "ORPHAN_GRACE=1h")
			s, err := content.Open(u.uri)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			upload, err := s.Create(t.Context(), content.Upload{Owner: "0190-ada", Name: "x", ContentType: "text/plain", Length: mebi + 5, ExpiresAt: time.Now().Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			servertest.AddPiece(t, s, upload.ID, 0, servertest.RandomBytes(mebi+5))
			if _, err := s.Finish(t.Context(), upload.ID, eventOf); err != nil { // The event is not confirmed, so the note stays.
				t.Fatal(err)
			}
			time.Sleep(grace + 500*time.Millisecond) // sweep then visits the upload, but does not continue the younger deletion.
			// These are the first steps of DELETE /files/{id}.
			if err := s.MarkDeleted(t.Context(), upload.ID); err != nil {
				t.Fatal(err)
			}
			document := bson.D{{Key: "_id", Value: upload.ID}}
			if _, err := u.db.Collection("fs.files").DeleteOne(t.Context(), document); err != nil {
				t.Fatal(err)
			}
			visit(t, u, sweep, upload.ID)
			if n := servertest.CountDocuments(t, u.db.Collection("fs.files"), document); n != 0 {
				t.Errorf("got %d documents of file %s, want none", n, upload.ID)
			}
		})
	}
}

// TestAuditJournalOfKilledFunction checks data C3: sweep deletes the journal of an upload whose function was killed between the commit and the deletion of the journal.
func TestAuditJournalOfKilledFunction(t *testing.T) {
	s, uri := openContent(t)
	w := newWire(t, host(t, uri), mongoMessages, func(m moment) bool { return m.what == "delete uploads.journal" })
	killed, err := content.Open(w.through(t, uri))
	if err != nil {
		t.Fatal(err)
	}
	defer killed.Close()
	u := servertest.CreateUpload(t, s, 3*mebi+5)
	servertest.AddPiece(t, s, u.ID, 0, servertest.RandomBytes(3*mebi+5))
	if _, err := killed.Finish(t.Context(), u.ID, eventOf); err == nil {
		t.Fatal("got no error of the function that was killed, want one")
	}
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+startSink(t), "PENDING_GRACE=10ms", "ORPHAN_GRACE=10ms")
	for range 3 {
		time.Sleep(50 * time.Millisecond)
		postSweep(t, sweep)
	}
	db := servertest.Database(t, uri)
	if n := servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}); n != 0 {
		t.Errorf("got %d open uploads, want none", n)
	}
	servertest.WantNoJournal(t, db, u.ID)
}

// TestAuditIndexTimeLimit checks data D1: the creation of an index has no time limit, because the server gives up a build that runs into the limit.
func TestAuditIndexTimeLimit(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	var mu sync.Mutex
	limits := map[string]string{} // by command; empty for no limit
	w := newWire(t, host(t, uri), func() (fromClient, fromServer parser) {
		client, server := mongoMessages()
		return func(r *bufio.Reader) ([]byte, string, error) {
			message, what, err := client(r)
			if err == nil && strings.HasPrefix(what, "createIndexes ") {
				document := bson.Raw(message[16+4+1:]) // after the header, the flags and the kind of the section
				mu.Lock()
				defer mu.Unlock()
				limits[what] = document[:binary.LittleEndian.Uint32(document)].Lookup("maxTimeMS").String()
			}
			return message, what, err
		}, server
	}, func(moment) bool { return false })
	s, err := content.Open(w.through(t, uri))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = errors.Join(s.EnsureIndexes(t.Context()), openCatalog(t, w.through(t, uri)).EnsureIndexes(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	if err != nil || len(limits) == 0 {
		t.Fatalf("got %d commands that create indexes and error %v", len(limits), err)
	}
	for command, limit := range limits {
		if limit != "" {
			t.Errorf("%s: got maxTimeMS %s, want no limit", command, limit)
		}
	}
}
