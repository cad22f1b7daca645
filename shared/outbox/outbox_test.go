package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestMain stops the servers that the tests have started.
func TestMain(m *testing.M) { servertest.Main(m) }

// start is a time that MongoDB can store without rounding.
var start = time.UnixMilli(1_800_000_000_000).UTC()

// TestInterval proves that the interval doubles with each publication, and that it ends at 24 hours.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		published int
		first     time.Duration
		want      time.Duration
	}{
		{0, time.Minute, time.Minute},
		{1, time.Minute, 2 * time.Minute},
		{2, time.Minute, 4 * time.Minute},
		{10, time.Minute, 1024 * time.Minute},
		{11, time.Minute, 24 * time.Hour},
		{1 << 30, time.Minute, 24 * time.Hour},
		{1, 12 * time.Hour, 24 * time.Hour},
		{0, 48 * time.Hour, 24 * time.Hour},
		{-1, time.Minute, time.Minute},
	} {
		if got := outbox.Interval(c.published, c.first); got != c.want {
			t.Errorf("Interval(%d, %v): got %v, want %v", c.published, c.first, got, c.want)
		}
	}
}

// newNotes returns the notes in a new database, and their collection.
func newNotes(t *testing.T) (*outbox.Notes, *mongo.Collection) {
	t.Helper()
	db, err := mongodb.Open(servertest.MongoDB(t).NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mongodb.Close(db) })
	notes := outbox.New(db)
	for range 2 { // a second call is not an error
		if err := notes.EnsureIndexes(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return notes, db.Collection("uploads")
}

// add adds a note of ada that is due at the given time.
func add(t *testing.T, notes *outbox.Notes, id string, due time.Time) {
	t.Helper()
	if err := notes.Add(t.Context(), outbox.Note{ID: id, Owner: "ada", Length: 1, DueAt: due}); err != nil {
		t.Fatal(err)
	}
}

// wantDue checks which notes are due, and their order.
func wantDue(t *testing.T, notes *outbox.Notes, stored bool, at time.Time, limit int, want ...string) {
	t.Helper()
	due, err := notes.Due(t.Context(), stored, at, limit)
	var got []string
	for _, n := range due {
		got = append(got, n.ID)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Due(%t, %v, %d): got %q and error %v, want %q", stored, at, limit, got, err, want)
	}
}

// TestDue proves that Due returns the notes whose due time has come, those that have been due longest first. Notes of
// stored files and other notes are separate.
func TestDue(t *testing.T) {
	notes, _ := newNotes(t)
	for n, id := range []string{"c", "a", "d", "b"} {
		add(t, notes, id, start.Add(time.Duration(n)*time.Second))
	}
	wantDue(t, notes, false, start.Add(-time.Millisecond), 10)
	wantDue(t, notes, false, start, 10, "c")
	wantDue(t, notes, false, start.Add(time.Hour), 10, "c", "a", "d", "b")
	wantDue(t, notes, false, start.Add(time.Hour), 2, "c", "a")
	wantDue(t, notes, true, start.Add(time.Hour), 10)
	if err := notes.Postpone(t.Context(), "c", start.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := notes.Stored(t.Context(), "d", start, 3, start.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	wantDue(t, notes, false, start.Add(time.Hour), 10, "a", "b", "c")
	wantDue(t, notes, true, start.Add(time.Minute), 10)
	wantDue(t, notes, true, start.Add(time.Hour), 10, "d")
	note, err := notes.Note(t.Context(), "d")
	if err != nil || note == nil || !note.IsStored || note.Published != 3 || !note.StoredAt.Equal(start) ||
		!note.DueAt.Equal(start.Add(2*time.Minute)) {
		t.Errorf("Note: got %+v and error %v, want the values that Stored set", note, err)
	}
}

// TestAbsentNote proves that a change of a note that does not exist is not an error, and does not create a note.
func TestAbsentNote(t *testing.T) {
	notes, collection := newNotes(t)
	for name, change := range map[string]error{
		"Postpone": notes.Postpone(t.Context(), "x", start),
		"Reserved": notes.Reserved(t.Context(), "x"),
		"End":      notes.End(t.Context(), "x", start),
		"Stored":   notes.Stored(t.Context(), "x", start, 0, start),
		"Remove":   notes.Remove(t.Context(), "x"),
	} {
		if change != nil {
			t.Errorf("%s: got error %v, want none", name, change)
		}
	}
	if n := servertest.CountDocuments(t, collection, bson.D{}); n != 0 {
		t.Errorf("got %d notes, want none", n)
	}
	add(t, notes, "x", start)
	if err := notes.Add(t.Context(), outbox.Note{ID: "x"}); !errors.Is(err, mongodb.ErrExists) {
		t.Errorf("Add of an existing note: got error %v, want %v", err, mongodb.ErrExists)
	}
}

// TestWaiting proves that Waiting counts only files that the sweep function has found, and that it returns the time
// when the first of them was stored.
func TestWaiting(t *testing.T) {
	notes, _ := newNotes(t)
	want := func(want int64, wantSince time.Time) {
		t.Helper()
		if files, since, err := notes.Waiting(t.Context()); err != nil || files != want || !since.Equal(wantSince) {
			t.Errorf("got %d, %v and error %v, want %d, %v", files, since, err, want, wantSince)
		}
	}
	want(0, time.Time{})
	for n := range 4 {
		add(t, notes, fmt.Sprint(n), start)
	}
	want(0, time.Time{})
	for n := range 3 { // the file of the last note was stored first
		at := start.Add(-time.Duration(n) * time.Hour)
		if err := notes.Stored(t.Context(), fmt.Sprint(n), at, 0, start.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		want(int64(n+1), at)
	}
	if err := notes.Remove(t.Context(), "2"); err != nil {
		t.Fatal(err)
	}
	want(2, start.Add(-time.Hour))
}

// TestOwned proves that Owned returns the notes of an owner whose uploads are not known to be files, and
// that Existing returns the IDs that have a note.
func TestOwned(t *testing.T) {
	notes, _ := newNotes(t)
	for _, n := range []outbox.Note{
		{ID: "b", Owner: "ada", Length: 2, ExpiresAt: &start, Tus: &outbox.Tus{}}, {ID: "a", Owner: "ada"}, {ID: "c", Owner: "ada", Length: -1},
		{ID: "stored", Owner: "ada"}, {ID: "another owner", Owner: "grace"},
	} {
		if err := notes.Add(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if err := notes.Stored(t.Context(), "stored", start, 0, start); err != nil {
		t.Fatal(err)
	}
	if err := notes.Reserved(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	owned, err := notes.Owned(t.Context(), "ada")
	var got []string
	for _, n := range owned {
		got = append(got, fmt.Sprintf("%s:%t", n.ID, n.IsReserved))
	}
	if want := "a:false b:false c:true"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("Owned: got %q and error %v, want %q", got, err, want)
	}
	for ids, want := range map[string]string{"": "", "a": "a", "a,x,stored": "a,stored", "x": ""} {
		if got, err := notes.Existing(t.Context(), strings.FieldsFunc(ids, func(r rune) bool { return r == ',' })); err != nil || strings.Join(got, ",") != want {
			t.Errorf("Existing of %q: got %q and error %v, want %q", ids, got, err, want)
		}
	}
}

// TestAdopt proves that Adopt makes the notes of the previous version due before all other notes, keeps their other
// fields, and does not change notes of this version.
func TestAdopt(t *testing.T) {
	notes, collection := newNotes(t)
	expires := start.Add(time.Hour)
	if _, err := collection.InsertMany(t.Context(), []bson.D{
		{{Key: "_id", Value: "plain"}, {Key: "owner", Value: "ada"}, {Key: "length", Value: int64(1)}, {Key: "expires_at", Value: nil}},
		{{Key: "_id", Value: "tus"}, {Key: "owner", Value: "ada"}, {Key: "length", Value: int64(2)},
			{Key: "expires_at", Value: expires}, {Key: "tus", Value: bson.D{
				{Key: "name", Value: "x"}, {Key: "content_type", Value: "text/plain"}, {Key: "metadata", Value: "m"}}}},
	}); err != nil {
		t.Fatal(err)
	}
	add(t, notes, "new", start)
	wantDue(t, notes, false, start, 10, "new")
	for range 2 { // a second call changes nothing
		if err := notes.Adopt(t.Context()); err != nil {
			t.Fatal(err)
		}
		due, err := notes.Due(t.Context(), false, start, 10)
		if err != nil || len(due) != 3 || due[2].ID != "new" || due[2].Previous || !due[2].DueAt.Equal(start) {
			t.Fatalf("Due: got %+v and error %v, want the unchanged new note last", due, err)
		}
		for _, n := range due[:2] {
			resumable := n.ID == "tus"
			if !n.Previous || n.Owner != "ada" || n.Length < 1 || (n.Tus != nil) != resumable || (n.ExpiresAt != nil) != resumable {
				t.Errorf("got note %+v, want the fields of the previous version", n)
			}
			if resumable && (*n.Tus != outbox.Tus{Name: "x", ContentType: "text/plain", Metadata: "m"} || !n.ExpiresAt.Equal(expires)) {
				t.Errorf("got note %+v, want the fields of the previous version", n)
			}
		}
	}
	if err := notes.Postpone(t.Context(), "plain", expires); err != nil {
		t.Fatal(err)
	}
	if err := notes.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantDue(t, notes, false, start, 10, "tus", "new")
}
