package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// swept is the response body of sweep.
type swept struct {
	Published, Finished, Discarded, Deleted, Failed, Uncataloged, Waiting int
	DeadLetters                                                           int `json:"dead_letters"`
	ForgottenClaims                                                       int `json:"forgotten_claims"`
}

// postSweep runs one sweep and returns the status and, if the status is 200, the response body.
func postSweep(t *testing.T, url string) (int, swept) {
	t.Helper()
	response, err := http.Post(url, "application/json", nil)
	if err != nil {
		t.Error(err)
		return 0, swept{}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	var answer swept
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Errorf("decode the response of sweep %s: %v", body, err)
		}
	}
	return response.StatusCode, answer
}

// eventOf is a finish function for Put that returns the same event as the upload function.
func eventOf(f *content.File) ([]byte, error) { return events.Encode(context.Background(), f.Info) }

// TestSweep proves what sweep does with unfinished work that is older than the grace period. It publishes the events of
// files without a catalog entry, deletes the duplicates that the previous version left and orphaned chunks, and completes
// deletions. It does not touch younger uploads or cataloged files.
func TestSweep(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	if err := s.EnsureIndexes(ctx); err != nil {
		t.Fatal(err)
	}
	c := openCatalog(t, uri)
	db := servertest.Database(t, uri)
	newFile := func(key string) content.File {
		t.Helper()
		f, err := s.Put(ctx, content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1}, Key: key}, servertest.NewReader(1, func() error { return io.EOF }), eventOf)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const grace = 2 * time.Second
	start := func(pending, orphan time.Duration) string {
		return runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE="+pending.String(), "ORPHAN_GRACE="+orphan.String())
	}
	patient, eager := start(time.Hour, time.Hour), start(grace, grace)

	// The event of pending was lost. The previous version stored claimer and duplicate with the same key, and was killed
	// before it deleted duplicate.
	pending, claimer := newFile(""), newFile("key")
	if _, err := s.Claim(ctx, "key", claimer); err != nil {
		t.Fatal(err)
	}
	duplicate := newFile("key")
	previous := bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: bson.A{claimer.ID, duplicate.ID}}}}}
	if _, err := db.Collection("uploads").UpdateMany(ctx, previous, bson.D{{Key: "$unset", Value: bson.D{{Key: "due_at", Value: ""}}}}); err != nil {
		t.Fatal(err)
	}
	// record was killed before it closed the note of this file.
	done := newFile("")
	if _, err := c.Insert(ctx, catalog.Entry{Info: done.Info}); err != nil {
		t.Fatal(err)
	}
	// The deletion of this file was interrupted.
	deleted := newFile("")
	if _, err := c.Insert(ctx, catalog.Entry{Info: deleted.Info}); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDeleted(ctx, deleted.ID); err != nil {
		t.Fatal(err)
	}
	// The function was killed during this upload. Only the chunk and the note exist.
	orphan := newFile("")
	if _, err := db.Collection("fs.files").DeleteOne(ctx, bson.D{{Key: "_id", Value: orphan.ID}}); err != nil {
		t.Fatal(err)
	}

	if status, got := postSweep(t, patient); status != http.StatusOK || got != (swept{Uncataloged: 1}) {
		t.Errorf("sweep within the grace period: got %d %+v, want 200 with only the adopted file", status, got)
	}
	time.Sleep(grace + 100*time.Millisecond)
	// This upload is younger than the grace period, so the sweeps during the upload must not touch it.
	young, err := s.Put(ctx, content.File{Info: file.Info{Owner: "ada", Name: "y", ContentType: "text/plain", Size: 1}}, servertest.NewReader(1, func() error {
		var group sync.WaitGroup // two sweeps can run at the same time
		var statuses [2]int
		var got [2]swept
		for i := range 2 {
			group.Go(func() { statuses[i], got[i] = postSweep(t, eager) })
		}
		group.Wait()
		if statuses != [2]int{200, 200} {
			t.Errorf("concurrent sweeps: got the statuses %v, want 200 twice", statuses)
		}
		if n := got[0].Published + got[1].Published; n < 2 || n > 4 {
			t.Errorf("concurrent sweeps: got %+v, want 2 files published by at least one of them", got)
		}
		return io.EOF
	}), eventOf)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{pending.ID, claimer.ID}
	ch := servertest.Channel(t, broker)
	var published []string
	for range servertest.QueueDepth(t, ch, events.Queue) {
		published = append(published, servertest.GetMessage(t, ch, events.Queue).MessageId)
	}
	slices.Sort(published)
	if got := slices.Compact(published); !slices.Equal(got, want) {
		t.Errorf("got the events of the files %q, want %q", got, want)
	}
	for id, want := range map[string]bool{pending.ID: true, claimer.ID: true, done.ID: true, young.ID: true, duplicate.ID: false, deleted.ID: false, orphan.ID: false} {
		if _, err := s.Get(ctx, id); (err == nil) != want {
			t.Errorf("Get of file %s: got error %v, want a file: %t", id, err, want)
		}
		if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: id}}); (n == 1) != want {
			t.Errorf("chunk of file %s exists: got %t, want %t", id, n == 1, want)
		}
	}
	if _, err := c.Get(ctx, deleted.ID); err == nil {
		t.Error("got a catalog entry of the deleted file, want none")
	}
	if n := servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}); n != 3 {
		t.Errorf("got %d notes, want those of pending, claimer and young", n)
	}
	if n := servertest.CountDocuments(t, db.Collection("deletions"), bson.D{}); n != 0 {
		t.Errorf("got %d unfinished deletions, want none", n)
	}
}

// TestSweepResumable proves that sweep keeps an incomplete resumable upload until it expires, even if it is older than
// ORPHAN_GRACE. sweep discards expired and terminated uploads. It turns complete uploads into files, even if they have
// expired.
func TestSweepResumable(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	db := servertest.Database(t, uri)
	const grace = time.Second
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE="+grace.String(), "ORPHAN_GRACE="+grace.String())
	create := func(expiresAt time.Time, bytes string) content.Upload {
		t.Helper()
		u, err := s.Create(t.Context(), content.Upload{Owner: "ada", Name: "x", ContentType: "text/plain", Length: 5, ExpiresAt: expiresAt})
		if err != nil {
			t.Fatal(err)
		}
		servertest.AddPiece(t, s, u.ID, 0, []byte(bytes))
		return u
	}
	underway, complete := create(time.Now().Add(time.Hour), "hel"), create(time.Now().Add(time.Hour), "hello")
	expired, terminated := create(time.Now().Add(-time.Hour), "hel"), create(time.Now().Add(time.Hour), "hel")
	late := create(time.Now().Add(-time.Hour), "hello")
	sealed := create(time.Now().Add(time.Hour), "hello") // Finish failed before the commit
	if _, err := s.Finish(t.Context(), sealed.ID, func(*content.File) ([]byte, error) { return nil, io.ErrUnexpectedEOF }); err == nil {
		t.Fatal("Finish with a failing event function: got no error, want an error")
	}
	if err := s.Terminate(t.Context(), terminated.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(grace + 100*time.Millisecond)
	if status, got := postSweep(t, sweep); status != http.StatusOK || got != (swept{Finished: 3, Discarded: 2, Uncataloged: 3}) {
		t.Errorf("first sweep: got %d %+v, want 3 finished and 2 discarded", status, got)
	}
	time.Sleep(grace + 100*time.Millisecond)
	if status, got := postSweep(t, sweep); status != http.StatusOK || got.Published != 3 || got.Finished != 0 || got.Discarded != 0 {
		t.Errorf("second sweep: got %d %+v, want 3 published", status, got)
	}
	ch := servertest.Channel(t, broker)
	var published []string
	for range servertest.QueueDepth(t, ch, events.Queue) {
		published = append(published, servertest.GetMessage(t, ch, events.Queue).MessageId)
	}
	slices.Sort(published)
	if want := []string{complete.ID, late.ID, sealed.ID}; !slices.Equal(published, want) {
		t.Errorf("got the events of the files %q, want %q", published, want)
	}
	for _, id := range published {
		if f, err := s.Get(t.Context(), id); err != nil || f.SHA256 != servertest.SHA256([]byte("hello")) {
			t.Errorf("Get: got %+v and error %v, want a file with the content \"hello\"", f, err)
		}
	}
	servertest.AddPiece(t, s, underway.ID, 3, []byte("lo"))
	if n := servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}); n != 4 {
		t.Errorf("got %d notes, want those of the upload in progress and of the 3 files", n)
	}
	for _, id := range []string{expired.ID, terminated.ID} {
		if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: id}}); n != 0 {
			t.Errorf("got %d chunks of upload %s, want none", n, id)
		}
		servertest.WantNoJournal(t, db, id)
	}
}

// TestSweepWithoutBroker proves that sweep responds with 503 while RabbitMQ is down, but does all work that does not
// need RabbitMQ. A later sweep publishes the events.
func TestSweepWithoutBroker(t *testing.T) {
	broker := servertest.OwnRabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, db := servertest.OpenContent(t, uri)
	ctx := t.Context()
	var files []content.File
	for range 2 {
		f, err := s.Put(ctx, content.File{Info: file.Info{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1}}, servertest.NewReader(1, func() error { return io.EOF }), eventOf)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if _, err := db.Collection("fs.files").DeleteOne(ctx, bson.D{{Key: "_id", Value: files[1].ID}}); err != nil {
		t.Fatal(err)
	}
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE=1s", "ORPHAN_GRACE=1s")
	time.Sleep(2 * time.Second)
	if err := broker.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, _ := postSweep(t, sweep); status != http.StatusServiceUnavailable {
		t.Errorf("sweep without the broker: got %d, want 503", status)
	}
	if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: files[1].ID}}); n != 0 {
		t.Errorf("got %d orphaned chunks after a sweep without the broker, want none", n)
	}
	if err := broker.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, servertest.Recovery, "sweep succeeds", func() error {
		if status, _ := postSweep(t, sweep); status != http.StatusOK {
			return fmt.Errorf("got %d, want 200", status)
		}
		return nil
	})
	if got := servertest.GetMessage(t, servertest.Channel(t, broker), events.Queue).MessageId; got != files[0].ID {
		t.Errorf("got the event %s, want %s", got, files[0].ID)
	}
	if note, err := s.Notes.Note(ctx, files[0].ID); err != nil || note == nil || note.Published != 1 {
		t.Errorf("Note: got %+v, %v, want a note of 1 publication", note, err)
	}
}
