package integration

import (
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
)

// swept is the answer of a sweep.
type swept struct {
	Published, Duplicates, Finished, Discarded, Deleted, Failed, Waiting int
	DeadLetters                                                          int   `json:"dead_letters"`
	ForgottenClaims                                                      int64 `json:"forgotten_claims"`
}

// postSweep has a sweep done and returns its status and, after 200, its answer.
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
			t.Errorf("%v: %s", err, body)
		}
	}
	return response.StatusCode, answer
}

// eventOf is a finish for Put that makes the real event.
func eventOf(f *content.File) ([]byte, error) {
	e, err := events.NewFileStored(events.FileStored{ID: f.ID, Owner: f.Owner, Name: f.Name, Size: f.Size, SHA256: f.SHA256,
		ContentType: f.ContentType, StoredAt: f.StoredAt})
	if err != nil {
		return nil, err
	}
	return e.MarshalJSON()
}

func TestSweep(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	topology(t, broker)
	uri := sharedMongoDB(t).newDatabase(t)
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
	db := database(t, uri)
	file := func(key string) content.File {
		t.Helper()
		f, err := s.Put(ctx, content.File{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1, Key: key}, &reader{1, func() error { return io.EOF }}, eventOf)
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

	// A file that waits for its confirmation, one that claims a key, and one that was sent again under that key.
	pending, claimer := file(""), file("key")
	if _, err := s.Claim(ctx, "key", claimer); err != nil {
		t.Fatal(err)
	}
	duplicate := file("key")
	done := file("")
	if err := s.Confirm(ctx, done.ID); err != nil {
		t.Fatal(err)
	}
	// One whose deletion was interrupted.
	deleted := file("")
	if _, err := c.Insert(ctx, catalog.Entry{ID: deleted.ID, Owner: "ada", StoredAt: deleted.StoredAt}); err != nil {
		t.Fatal(err)
	}
	if err := s.Bury(ctx, deleted.ID); err != nil {
		t.Fatal(err)
	}
	// Bytes of an upload that was killed: the files document goes, the note stays.
	orphan := file("")
	if _, err := db.Collection("fs.files").DeleteOne(ctx, bson.D{{Key: "_id", Value: orphan.ID}}); err != nil {
		t.Fatal(err)
	}

	if status, got := postSweep(t, patient); status != http.StatusOK || got != (swept{}) {
		t.Errorf("within the grace: got %d %+v, want nothing done", status, got)
	}
	time.Sleep(grace + 100*time.Millisecond)
	// A young one is left alone, by its age.
	young, err := s.Put(ctx, content.File{Owner: "ada", Name: "y", ContentType: "text/plain", Size: 1}, &reader{1, func() error {
		var group sync.WaitGroup // two sweeps at once do no harm
		var statuses [2]int
		var got [2]swept
		for i := range 2 {
			group.Go(func() { statuses[i], got[i] = postSweep(t, eager) })
		}
		group.Wait()
		if statuses != [2]int{200, 200} {
			t.Errorf("got %v, want 200 twice", statuses)
		}
		if n := got[0].Published + got[1].Published; n < 2 || n > 4 {
			t.Errorf("got %+v, want 2 files announced by one of them at least", got)
		}
		return io.EOF
	}}, eventOf)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{pending.ID, claimer.ID}
	ch := amqpChannel(t, broker)
	var published []string
	for range depth(t, ch, events.Queue) {
		published = append(published, get(t, ch, events.Queue).MessageId)
	}
	slices.Sort(published)
	if got := slices.Compact(published); !slices.Equal(got, want) {
		t.Errorf("got events of %q, want %q", got, want)
	}
	for id, want := range map[string]bool{pending.ID: true, claimer.ID: true, done.ID: true, young.ID: true, duplicate.ID: false, deleted.ID: false, orphan.ID: false} {
		if n := count(t, db.Collection("fs.files"), bson.D{{Key: "_id", Value: id}}); (n == 1) != want {
			t.Errorf("file %s is there: %t, want %t", id, n == 1, want)
		}
		if n := count(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: id}}); (n == 1) != want {
			t.Errorf("the chunk of file %s is there: %t, want %t", id, n == 1, want)
		}
	}
	if _, err := c.Get(ctx, deleted.ID); err == nil {
		t.Error("the entry of the deleted file is still there")
	}
	if n := count(t, db.Collection("uploads"), bson.D{}); n != 1 {
		t.Errorf("%d uploads are unfinished, want the young one", n)
	}
	if n := count(t, db.Collection("deletions"), bson.D{}); n != 0 {
		t.Errorf("%d deletions are unfinished, want none", n)
	}
}

// An upload in many requests outlives the grace for orphans, until it expires; one that is complete becomes a file.
func TestSweepResumable(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	topology(t, broker)
	uri := sharedMongoDB(t).newDatabase(t)
	s, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	db := database(t, uri)
	const grace = time.Second
	sweep := runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE="+grace.String(), "ORPHAN_GRACE="+grace.String())
	create := func(expiresAt time.Time, bytes string) content.Upload {
		t.Helper()
		u, err := s.Create(t.Context(), content.Upload{Owner: "ada", Name: "x", ContentType: "text/plain", Length: 5, ExpiresAt: expiresAt})
		if err != nil {
			t.Fatal(err)
		}
		addPiece(t, s, u.ID, 0, []byte(bytes))
		return u
	}
	underway, complete := create(time.Now().Add(time.Hour), "hel"), create(time.Now().Add(time.Hour), "hello")
	expired, terminated := create(time.Now().Add(-time.Hour), "hel"), create(time.Now().Add(time.Hour), "hel")
	late := create(time.Now().Add(-time.Hour), "hello")
	sealed := create(time.Now().Add(time.Hour), "hello") // whose function was killed while it made the file
	if _, _, err := s.Finish(t.Context(), sealed.ID, func(*content.File) ([]byte, error) { return nil, io.ErrUnexpectedEOF }); err == nil {
		t.Fatal("the finish that was broken succeeds")
	}
	if err := s.Terminate(t.Context(), terminated.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(grace + 100*time.Millisecond)
	if status, got := postSweep(t, sweep); status != http.StatusOK || got != (swept{Finished: 3, Discarded: 2}) {
		t.Errorf("got %d %+v, want 3 finished and 2 discarded", status, got)
	}
	time.Sleep(grace + 100*time.Millisecond)
	if status, got := postSweep(t, sweep); status != http.StatusOK || got.Published != 3 || got.Finished != 0 || got.Discarded != 0 {
		t.Errorf("got %d %+v, want 3 published", status, got)
	}
	ch := amqpChannel(t, broker)
	var published []string
	for range depth(t, ch, events.Queue) {
		published = append(published, get(t, ch, events.Queue).MessageId)
	}
	slices.Sort(published)
	if want := []string{complete.ID, late.ID, sealed.ID}; !slices.Equal(published, want) {
		t.Errorf("got events of %q, want %q", published, want)
	}
	for _, id := range published {
		if f, err := s.Get(t.Context(), id); err != nil || f.SHA256 != sum([]byte("hello")) {
			t.Errorf("got file %+v and error %v", f, err)
		}
	}
	addPiece(t, s, underway.ID, 3, []byte("lo"))
	if n := count(t, db.Collection("uploads"), bson.D{}); n != 1 {
		t.Errorf("%d uploads are unfinished, want the one that is under way", n)
	}
	for _, id := range []string{expired.ID, terminated.ID} {
		if n := count(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: id}}); n != 0 {
			t.Errorf("got %d chunks of upload %s, want none", n, id)
		}
		wantNoJournal(t, db, id)
	}
}

// Without the broker everything else is done, the answer says that not all was, and nothing is lost.
func TestSweepBrokerAway(t *testing.T) {
	broker := ownRabbitMQ(t).newVhost(t)
	topology(t, broker)
	uri := sharedMongoDB(t).newDatabase(t)
	s, db := newContent(t, uri)
	ctx := t.Context()
	var files []content.File
	for range 2 {
		f, err := s.Put(ctx, content.File{Owner: "ada", Name: "x", ContentType: "text/plain", Size: 1}, &reader{1, func() error { return io.EOF }}, eventOf)
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
		t.Errorf("without the broker: got %d, want 503", status)
	}
	if n := count(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: files[1].ID}}); n != 0 {
		t.Error("without the broker, the orphan was left as well")
	}
	if err := broker.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, recovery, "sweep", func() error {
		if status, _ := postSweep(t, sweep); status != http.StatusOK {
			return fmt.Errorf("got %d", status)
		}
		return nil
	})
	if got := get(t, amqpChannel(t, broker), events.Queue).MessageId; got != files[0].ID {
		t.Errorf("got the event %s, want %s", got, files[0].ID)
	}
	if confirmed, err := s.Confirmed(ctx, files[0].ID); err != nil || !confirmed {
		t.Errorf("confirmed: got %t, %v", confirmed, err)
	}
}
