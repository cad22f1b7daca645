package content_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// process is a process of the property-based test. It runs random operations on a store.
type process struct {
	s, free *content.Store // with and without a quota
	db      *mongo.Database
	r       *rand.Rand
}

var errInterrupted = errors.New("interrupted")

// put stores a file of a random size, or fails. It uses one of a few idempotency keys.
func (p process) put(ctx context.Context, owner string, s *content.Store) error {
	size := p.r.IntN(50)
	var r io.Reader = strings.NewReader(strings.Repeat("x", size))
	info := file.Info{Owner: owner, Size: int64(size)}
	if p.r.IntN(3) == 0 {
		info.Size = -1
	}
	if p.r.IntN(6) == 0 {
		r = io.MultiReader(io.LimitReader(r, int64(size/2)), iotest.ErrReader(errInterrupted))
	}
	key := ""
	if p.r.IntN(3) == 0 {
		key = fmt.Sprintf("%s/key%d", owner, p.r.IntN(10))
	}
	_, err := s.Put(ctx, content.File{Info: info, Key: key}, r, func(f *content.File) ([]byte, error) {
		if key == "" {
			return anyEvent(f)
		}
		first, err := s.Claim(ctx, key, *f)
		if err == nil && first.ID != f.ID {
			err = errInterrupted
		}
		return []byte(`{}`), err
	})
	return err
}

// resume creates a resumable upload, appends bytes to it, and completes, terminates or leaves it.
func (p process) resume(ctx context.Context, owner string, s *content.Store) error {
	size := p.r.Int64N(50)
	u, err := s.Create(ctx, content.Upload{Owner: owner, Length: size, ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		return err
	}
	n := size
	if p.r.IntN(3) == 0 {
		n /= 2
	}
	if n > 0 {
		if _, err := s.Append(ctx, u.ID, 0, strings.NewReader(strings.Repeat("y", int(n)))); err != nil {
			return err
		}
	}
	if p.r.IntN(4) == 0 {
		return s.Terminate(ctx, u.ID)
	}
	_, err = s.Finish(ctx, u.ID, anyEvent)
	return err
}

// remove deletes a random file. Sometimes it stops after a step, so that the sweep operation completes the deletion.
func (p process) remove(ctx context.Context, s *content.Store) error {
	ids, _, err := s.IDs(ctx, fmt.Sprintf("%x", p.r.IntN(16)), 100)
	if err != nil || len(ids) == 0 {
		ids, _, err = s.IDs(ctx, "", 100)
	}
	if err != nil || len(ids) == 0 {
		return err
	}
	id := ids[p.r.IntN(len(ids))]
	if err := s.MarkDeleted(ctx, id); err != nil || p.r.IntN(4) == 0 {
		return err
	}
	return s.Delete(ctx, id)
}

// sweep does what the record and the sweep function do to a random upload: it records that the upload is a file, closes
// the note, or discards the upload, also if it is in progress.
func (p process) sweep(ctx context.Context, s *content.Store) error {
	notes, err := s.Notes.Due(ctx, p.r.IntN(3) == 0, time.Now().Add(2*time.Hour), 20)
	if err != nil || len(notes) == 0 {
		return err
	}
	n := notes[p.r.IntN(len(notes))]
	f, err := s.Get(ctx, n.ID)
	switch {
	case errors.Is(err, problem.NotFound):
		if p.r.IntN(4) > 0 {
			return nil
		}
		return s.Discard(ctx, n.ID)
	case err != nil:
		return err
	case p.r.IntN(2) == 0:
		if err := s.Settle(ctx, n); err != nil {
			return err
		}
		return s.Notes.Stored(ctx, n.ID, f.StoredAt, 0, f.StoredAt)
	}
	return s.CloseNote(ctx, n.ID)
}

// finishDeletions completes all deletions.
func finishDeletions(ctx context.Context, s *content.Store) error {
	ids, err := s.PendingDeletions(ctx, time.Now().Add(time.Hour), 100)
	for _, id := range ids {
		err = errors.Join(err, s.MarkDeleted(ctx, id), s.Delete(ctx, id))
	}
	return err
}

// TestUsage runs random operations of 8 writers in 4 processes. It proves that the files of a user never exceed the
// quota, that the recorded usage always equals the sum of the files, and that an idempotency key has at most one file.
// Half of the operations belong to a user whose usage is counted while a process without a quota stores files.
func TestUsage(t *testing.T) {
	const writers, quota = 8, 1500
	steps := 1000
	if os.Getenv("MONGODB_ADMIN_URI") != "" { // FerretDB needs minutes for more steps
		steps = 10_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	uri := servertest.MongoDB(t).NewDatabase(t)
	var stores []*content.Store
	var db *mongo.Database
	for range 4 {
		var s *content.Store
		s, db = servertest.OpenContent(t, uri)
		s.Limits = content.Limits{Bytes: quota}
		stores = append(stores, s)
	}
	free, _ := servertest.OpenContent(t, uri)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			p := process{stores[w%len(stores)], free, db, rand.New(rand.NewPCG(seed, uint64(w)))}
			for step := range steps / writers {
				if err := p.step(t.Context(), step > steps/writers/3); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	s := stores[0]
	for {
		notes, err := s.Notes.Due(t.Context(), false, time.Now().Add(2*time.Hour), 100)
		stored, failed := s.Notes.Due(t.Context(), true, time.Now().Add(2*time.Hour), 100)
		if err := errors.Join(err, failed, finishDeletions(t.Context(), s)); err != nil {
			t.Fatal(err)
		}
		if notes = append(notes, stored...); len(notes) == 0 {
			break
		}
		for _, n := range notes {
			if err := s.Discard(t.Context(), n.ID); errors.Is(err, problem.Conflict) {
				err = s.CloseNote(t.Context(), n.ID)
				if err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, owner := range []string{"ada", "grace"} {
		servertest.WantUsage(t, db, owner)
	}
	if bytes, files, err := servertest.SumOfFiles(t.Context(), db, "ada"); err != nil || files == 0 || bytes < quota/3 {
		t.Errorf("got %d bytes in %d files at the end, want more: the test is too weak", bytes, files)
	}
	wantOneFilePerKey(t, db)
}

// step runs a random operation. It returns only errors that are not expected.
func (p process) step(ctx context.Context, counted bool) (err error) {
	owner, s := "ada", p.s
	if p.r.IntN(2) == 0 {
		owner = "grace"
		if p.r.IntN(2) == 0 || !counted {
			s = p.free
		}
	}
	switch p.r.IntN(16) {
	case 0, 1, 2, 3, 4:
		err = p.put(ctx, owner, s)
	case 5, 6, 7:
		if owner == "ada" || counted {
			err = p.resume(ctx, owner, s)
		}
	case 8, 9:
		err = p.remove(ctx, s)
	case 10, 11, 12, 13:
		err = p.sweep(ctx, s)
	case 14:
		if p.r.IntN(4) == 0 {
			err = finishDeletions(ctx, s)
		}
	default:
		ok, failed := s.IsUsageCorrect(ctx, owner)
		if failed == nil && !ok {
			failed = fmt.Errorf("the usage of %s is wrong", owner)
		}
		bytes, _, err := servertest.SumOfFiles(ctx, p.db, "ada")
		if bytes > p.s.Limits.Bytes {
			failed = errors.Join(failed, fmt.Errorf("got %d bytes, want at most %d", bytes, p.s.Limits.Bytes))
		}
		return errors.Join(failed, err)
	}
	for _, expected := range []error{nil, errInterrupted, problem.QuotaExceeded, problem.NotFound, problem.Conflict, problem.Unavailable, mongodb.ErrExists} {
		if errors.Is(err, expected) {
			return nil
		}
	}
	return err
}

// wantOneFilePerKey fails the test if two files have the same idempotency key.
func wantOneFilePerKey(t *testing.T, db *mongo.Database) {
	t.Helper()
	cursor, err := db.Collection("fs.files").Find(t.Context(), bson.D{{Key: "metadata.idempotency_key", Value: bson.D{{Key: "$gt", Value: ""}}}})
	var found []struct {
		Metadata struct {
			Key string `bson:"idempotency_key"`
		} `bson:"metadata"`
	}
	if err == nil {
		err = cursor.All(t.Context(), &found)
	}
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, f := range found {
		if slices.Contains(keys, f.Metadata.Key) {
			t.Errorf("key %q has two files", f.Metadata.Key)
		}
		keys = append(keys, f.Metadata.Key)
	}
}

// TestUsageStart proves that the usage of a user starts with the files that exist, whatever has happened to them
// before. The first upload under a quota, or a check of the room, counts them.
func TestUsageStart(t *testing.T) {
	type step func(ctx context.Context, s *content.Store, id string) error
	note := func(ctx context.Context, s *content.Store, id string) error {
		n, err := s.Notes.Note(ctx, id)
		if err == nil {
			err = s.Settle(ctx, *n)
		}
		if err == nil {
			err = s.Notes.Stored(ctx, id, time.Now(), 0, time.Now())
		}
		return err
	}
	closed := func(ctx context.Context, s *content.Store, id string) error { return s.CloseNote(ctx, id) }
	mark := func(ctx context.Context, s *content.Store, id string) error { return s.MarkDeleted(ctx, id) }
	remove := func(ctx context.Context, s *content.Store, id string) error { return s.Delete(ctx, id) }
	refuse := func(ctx context.Context, s *content.Store, _ string) error {
		if _, _, err := s.Room(ctx, "ada", 1000); !errors.Is(err, problem.QuotaExceeded) {
			return fmt.Errorf("Room: got error %w, want %w", err, problem.QuotaExceeded)
		}
		return nil
	}
	const size = 10
	for name, c := range map[string]struct {
		before, after []step // the steps before and after the files are counted
		want, end     int64  // the bytes that the usage contains when the files are counted, and at the end
	}{
		"new file":                           {nil, []step{closed}, size, size},
		"file that sweep found":              {[]step{note}, []step{closed}, size, size},
		"file that sweep finds later":        {nil, []step{note, closed}, size, size},
		"cataloged file":                     {[]step{closed}, nil, size, size},
		"file that is deleted later":         {[]step{closed}, []step{mark, remove}, size, 0},
		"new file that is deleted later":     {nil, []step{mark, remove}, size, 0},
		"file that is being deleted":         {[]step{closed, mark}, []step{mark, remove}, 0, 0},
		"new file that is being deleted":     {[]step{mark}, []step{remove}, 0, 0},
		"deleted file":                       {[]step{mark, remove}, nil, 0, 0},
		"file that is deleted repeatedly":    {nil, []step{mark, mark, remove, mark, remove, closed}, size, 0},
		"file that a refused upload settles": {nil, []step{refuse, closed}, size, size},
	} {
		t.Run(name, func(t *testing.T) {
			s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
			f, err := put(t.Context(), s, make([]byte, size))
			if err != nil {
				t.Fatal(err)
			}
			run := func(steps []step) {
				for i, step := range steps {
					if err := step(t.Context(), s, f.ID); err != nil {
						t.Errorf("step %d: %v", i, err)
					}
				}
			}
			run(c.before)
			s.Limits = content.Limits{Bytes: 100}
			if room, _, err := s.Room(t.Context(), "ada", 0); err != nil || room != 100-c.want {
				t.Errorf("Room: got %d and error %v, want %d", room, err, 100-c.want)
			}
			run(c.after)
			if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != c.end || got.Files != c.end/size || len(got.Reservations) > 0 {
				t.Errorf("got the usage %+v at the end, want %d bytes", got, c.end)
			}
			if ok, err := s.IsUsageCorrect(t.Context(), "ada"); !ok || err != nil {
				t.Errorf("IsUsageCorrect: got %t and error %v, want true", ok, err)
			}
		})
	}
}

// TestUsageDuringDeletion proves that a deletion that began before the files are counted is subtracted exactly once.
// The deletion looks for the usage before the count, and marks the file after it.
func TestUsageDuringDeletion(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	f, err := put(t.Context(), s, make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	// The state of a deletion that has inserted its record, and has not found a usage.
	if _, err := db.Collection("deletions").InsertOne(t.Context(), bson.D{{Key: "_id", Value: f.ID}, {Key: "owner", Value: "ada"}, {Key: "buried_at", Value: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	s.Limits = content.Limits{Bytes: 100}
	if room, _, err := s.Room(t.Context(), "ada", 0); err != nil || room != 90 {
		t.Errorf("Room: got %d and error %v, want 90", room, err)
	}
	tombstone := bson.D{{Key: "length", Value: 0}, {Key: "metadata", Value: bson.D{{Key: "ended_at", Value: time.Now()}}}}
	if _, err := db.Collection("fs.files").ReplaceOne(t.Context(), bson.D{{Key: "_id", Value: f.ID}}, tombstone); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), f.ID); err != nil {
			t.Fatal(err)
		}
		servertest.WantUsage(t, db, "ada")
	}
}

// TestRefusedUploadSettles proves that reservations of uploads and deletions that have ended do not refuse an upload.
func TestRefusedUploadSettles(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, db := servertest.OpenContent(t, uri)
	s.Limits = content.Limits{Bytes: 100}
	outdated := []bson.D{
		{{Key: "id", Value: "upload without a note"}, {Key: "bytes", Value: 10}},
		{{Key: "id", Value: "terminated upload"}, {Key: "bytes", Value: 20}}, // the process was killed before it released the bytes
		{{Key: "id", Value: "deleted file"}, {Key: "bytes", Value: 30}, {Key: "deletion", Value: true}},
	}
	if err := s.Notes.Add(t.Context(), outbox.Note{ID: "terminated upload", Owner: "ada", Length: 20, IsReserved: true}); err != nil {
		t.Fatal(err)
	}
	tombstone := bson.D{{Key: "_id", Value: "terminated upload"}, {Key: "metadata", Value: bson.D{{Key: "ended_at", Value: time.Now()}}}}
	if _, err := db.Collection("fs.files").InsertOne(t.Context(), tombstone); err != nil {
		t.Fatal(err)
	}
	f, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Size: 20}}, strings.NewReader(strings.Repeat("x", 20)), anyEvent)
	if err != nil {
		t.Fatal(err)
	}
	latest := servertest.LatestUsage(t, db, "ada")
	if len(latest.Reservations) != 1 || latest.Reservations[0]["id"] != f.ID {
		t.Errorf("got the reservations %v, want that of the new file", latest.Reservations)
	}
	outdated = append(outdated, bson.D{{Key: "id", Value: f.ID}, {Key: "bytes", Value: 40}}) // more than the file has
	value := bson.D{{Key: "bytes", Value: 100}, {Key: "files", Value: 4}, {Key: "reservations", Value: outdated}}
	if _, err := db.Collection("usage").InsertOne(t.Context(), bson.D{{Key: "_id", Value: fmt.Sprintf("ada/%020d", 100)}, {Key: "key", Value: "ada"},
		{Key: "number", Value: 100}, {Key: "value", Value: value}}); err != nil {
		t.Fatal(err)
	}
	if room, _, err := s.Room(t.Context(), "ada", 80); err != nil || room != 80 {
		t.Errorf("Room: got %d and error %v, want 80", room, err)
	}
	servertest.WantUsage(t, db, "ada")
}

// TestFirstCreate proves that the quota applies to the first resumable uploads of a user, also at the same time.
func TestFirstCreate(t *testing.T) {
	const quota = 100
	for name, c := range map[string]struct {
		length  int64
		uploads int
		want    int // the number of uploads that fit
	}{"fits": {quota, 1, 1}, "too long": {quota + 1, 1, 0}, "together too long": {40, 8, 2}} {
		t.Run(name, func(t *testing.T) {
			uri := servertest.MongoDB(t).NewDatabase(t)
			var group sync.WaitGroup
			var created atomic.Int64
			for range c.uploads {
				s, _ := servertest.OpenContent(t, uri)
				s.Limits = content.Limits{Bytes: quota}
				group.Go(func() {
					_, err := s.Create(t.Context(), content.Upload{Owner: "ada", Length: c.length, ExpiresAt: time.Now().Add(time.Hour)})
					switch {
					case err == nil:
						created.Add(1)
					case !errors.Is(err, problem.QuotaExceeded):
						t.Errorf("Create: got error %v, want %v", err, problem.QuotaExceeded)
					}
				})
			}
			group.Wait()
			db := servertest.Database(t, uri)
			if got := int(created.Load()); got != c.want || servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}) != int64(c.want) {
				t.Errorf("got %d uploads, want %d", got, c.want)
			}
			if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != int64(c.want)*c.length || len(got.Reservations) != c.want {
				t.Errorf("got the usage %+v, want %d uploads", got, c.want)
			}
		})
	}
}

// TestCountManyNotes proves that the files of a user can be counted while many of them have no catalog entry yet, for
// example after an outage of RabbitMQ.
func TestCountManyNotes(t *testing.T) {
	const files, size = 2000, 3
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	var notes, docs []any
	for range files {
		id := uuid.Must(uuid.NewV7()).String()
		notes = append(notes, outbox.Note{ID: id, Owner: "ada", Length: size})
		docs = append(docs, bson.D{{Key: "_id", Value: id}, {Key: "length", Value: size}, {Key: "chunkSize", Value: mebi}, {Key: "metadata", Value: bson.D{{Key: "owner", Value: "ada"}}}})
	}
	_, err := db.Collection("uploads").InsertMany(t.Context(), notes)
	if err == nil {
		_, err = db.Collection("fs.files").InsertMany(t.Context(), docs)
	}
	if err != nil {
		t.Fatal(err)
	}
	u := servertest.CreateUpload(t, s, 1)
	if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != files*size+1 || got.Files != files+1 || len(got.Reservations) != 1 {
		t.Errorf("got %d bytes, %d files and %d reservations, want %d, %d and 1", got.Bytes, got.Files, len(got.Reservations), files*size+1, files+1)
	}
	for _, id := range []string{notes[0].(outbox.Note).ID, notes[1].(outbox.Note).ID} {
		if err := s.CloseNote(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Terminate(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	servertest.WantUsage(t, db, "ada")
}

// TestRecount proves that a new count keeps the reservations of uploads in progress, and replaces a count that was
// interrupted.
func TestRecount(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	s.Limits = content.Limits{Bytes: 100 * mebi}
	_, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Size: -1}}, servertest.NewReader(10, func() error {
		before := servertest.LatestUsage(t, db, "ada")
		if _, err := db.Collection("usage").InsertOne(t.Context(), bson.D{{Key: "_id", Value: fmt.Sprintf("ada/%020d", 100)}, {Key: "key", Value: "ada"},
			{Key: "number", Value: 100}, {Key: "value", Value: bson.D{{Key: "counting", Value: "killed"}, {Key: "reservations", Value: before.Reservations}}}}); err != nil {
			t.Error(err)
		}
		if ok, err := s.IsUsageCorrect(t.Context(), "ada"); ok || err != nil {
			t.Errorf("IsUsageCorrect: got %t and error %v, want false", ok, err)
		}
		if err := s.Recount(t.Context(), "ada"); err != nil {
			t.Error(err)
		}
		if after := servertest.LatestUsage(t, db, "ada"); after.Bytes != before.Bytes || after.Files != 1 || after.Bytes < 10 {
			t.Errorf("got the usage %+v, want %+v", after, before)
		}
		return io.EOF
	}), anyEvent)
	if err != nil {
		t.Fatal(err)
	}
	if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != 10 || got.Files != 1 {
		t.Errorf("got the usage %+v, want 10 bytes in 1 file", got)
	}
}

// TestQuotaUnknownSize proves that an upload of unknown size reserves its bytes while they arrive, and ends with
// exactly its size.
func TestQuotaUnknownSize(t *testing.T) {
	const quota = 20 * mebi
	for name, c := range map[string]struct {
		size int
		want error
	}{
		"empty": {0, nil}, "one byte": {1, nil}, "more than one step": {17 * mebi, nil}, "exactly the quota": {quota, nil}, "one byte more": {quota + 1, problem.QuotaExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
			s.Limits = content.Limits{Bytes: quota}
			_, err := s.Put(t.Context(), content.File{Info: file.Info{Owner: "ada", Size: -1}}, servertest.NewReader(c.size, func() error {
				if got := servertest.LatestUsage(t, db, "ada"); got.Bytes < int64(c.size) {
					t.Errorf("got %d reserved bytes after the last byte, want at least %d", got.Bytes, c.size)
				}
				return io.EOF
			}), anyEvent)
			if !errors.Is(err, c.want) {
				t.Fatalf("Put: got error %v, want %v", err, c.want)
			}
			want := int64(c.size)
			if c.want != nil {
				want = 0
			}
			if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != want {
				t.Errorf("got the usage %+v, want %d bytes", got, want)
			}
		})
	}
}

// TestStaged proves that a resumable upload has at most one temporary file with verified bytes at a time, whatever
// happens to the first one.
func TestStaged(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	s.Limits = content.Limits{Bytes: 10} // the temporary file does not count toward the quota
	u := servertest.CreateUpload(t, s, 10)
	mismatch := errors.New("mismatch")
	verified := func(r io.Reader, result error) error {
		_, err := s.AppendVerified(t.Context(), u.ID, 0, r, func() error { return result })
		return err
	}
	first := io.MultiReader(readerFunc(func([]byte) (int, error) {
		if err := verified(strings.NewReader("hello"), nil); !errors.Is(err, problem.Locked) {
			t.Errorf("second request: got error %v, want %v", err, problem.Locked)
		}
		return 0, io.EOF
	}), strings.NewReader("hello"))
	for name, c := range map[string]struct {
		r            io.Reader
		result, want error
	}{
		"mismatch": {strings.NewReader("hullo"), mismatch, mismatch}, "broken": {iotest.ErrReader(io.ErrUnexpectedEOF), nil, io.ErrUnexpectedEOF},
	} {
		if err := verified(c.r, c.result); !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
	if err := verified(first, nil); err != nil {
		t.Error(err)
	}
	if got := servertest.LatestUsage(t, db, "ada"); got.Bytes != 10 || got.Files != 1 || len(got.Reservations) != 1 {
		t.Errorf("got the usage %+v, want only the upload", got)
	}
}

// TestTerminatedWriter proves that a writer stops soon after its upload was terminated, because the bytes no longer
// count toward the quota.
func TestTerminatedWriter(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	u := servertest.CreateUpload(t, s, 100*mebi)
	read := 0
	added, err := s.Append(t.Context(), u.ID, 0, readerFunc(func(p []byte) (int, error) {
		if read == 0 {
			if err := s.Terminate(t.Context(), u.ID); err != nil {
				t.Error(err)
			}
		}
		read += len(p)
		return len(p), nil
	}))
	if !errors.Is(err, problem.NotFound) || added > 20*mebi || read > 20*mebi {
		t.Errorf("Append: got %d bytes, %d bytes read and error %v, want at most %d and %v", added, read, err, 20*mebi, problem.NotFound)
	}
	if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{}); n != 0 {
		t.Errorf("got %d chunks, want none", n)
	}
}

// readerFunc implements io.Reader.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
