package integration

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// TestContentUnfinished proves that Unfinished lists the uploads with an upload record, in pages and by age. The record
// exists from before the first byte until Confirm, or until Put fails. Usage counts its declared length.
func TestContentUnfinished(t *testing.T) {
	s, db := newContent(t, sharedMongoDB(t).newDatabase(t))
	ctx := t.Context()
	var ids []string
	for range 3 {
		f, err := put(ctx, s, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, f.ID)
	}
	page := func(before time.Time, after string, limit int, want ...string) {
		t.Helper()
		found, err := s.Unfinished(ctx, before, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range found {
			got = append(got, u.ID)
			if u.Resumable {
				t.Errorf("%s: got Resumable true, want false", u.ID)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("Unfinished before %v, after the ID %q: got %q, want %q", before, after, got, want)
		}
	}
	later := time.Now().Add(time.Second)
	page(later, "", 2, ids[0], ids[1])
	page(later, ids[1], 2, ids[2])
	page(time.Now().Add(-time.Minute), "", 2)
	if err := s.Confirm(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	page(later, "", 3, ids[1], ids[2])

	// Put inserts the upload record before it reads the first byte.
	_, err := s.Put(ctx, content.File{Info: file.Info{Owner: "ada", Size: 7}}, &reader{0, func() error {
		if n := count(t, db.Collection("uploads"), bson.D{{Key: "owner", Value: "ada"}, {Key: "length", Value: 7}}); n != 1 {
			t.Errorf("before the first byte: got %d upload records, want 1", n)
		}
		if usage, err := s.Usage(ctx, "ada"); err != nil || usage != 3+7 {
			t.Errorf("Usage during the upload: got %d, %v, want 10", usage, err)
		}
		return io.ErrUnexpectedEOF
	}}, anyEvent)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Put: got error %v, want %v", err, io.ErrUnexpectedEOF)
	}
	page(later, "", 3, ids[1], ids[2])
	for owner, want := range map[string]int64{"ada": 3, "grace": 0} {
		if usage, err := s.Usage(ctx, owner); err != nil || usage != want {
			t.Errorf("Usage of %s: got %d, %v, want %d", owner, usage, err, want)
		}
	}
}

// TestContentClaims proves that the first file that claims an idempotency key keeps the key until the claim of that
// file is deleted or is old enough for ForgetClaims.
func TestContentClaims(t *testing.T) {
	s, _ := newContent(t, sharedMongoDB(t).newDatabase(t))
	ctx := t.Context()
	first, err := put(ctx, s, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := put(ctx, s, []byte("second"))
	if err != nil {
		t.Fatal(err)
	}
	claimed := func(want string) {
		t.Helper()
		got, found, err := s.Claimed(ctx, "key")
		if err != nil || found != (want != "") || got.ID != want {
			t.Errorf("Claimed: got %q, %t, %v, want %q", got.ID, found, err, want)
		}
	}
	claimed("")
	for _, f := range []content.File{first, first, second} { // the same file can claim the key again
		if got, err := s.Claim(ctx, "key", f); err != nil || got != first {
			t.Errorf("Claim for file %s: got %+v, %v, want %+v", f.ID, got, err, first)
		}
	}
	claimed(first.ID)
	if n, err := s.ForgetClaims(ctx, time.Now().Add(-time.Minute)); err != nil || n != 0 {
		t.Errorf("ForgetClaims of a minute ago: got %d, %v, want 0", n, err)
	}
	if n, err := s.ForgetClaims(ctx, time.Now().Add(time.Minute)); err != nil || n != 1 {
		t.Errorf("ForgetClaims of all claims: got %d, %v, want 1", n, err)
	}
	claimed("")
	if got, err := s.Claim(ctx, "key", second); err != nil || got != second {
		t.Errorf("Claim for file %s: got %+v, %v, want %+v", second.ID, got, err, second)
	}
	if n, err := s.ForgetClaims(ctx, time.Now().Add(time.Minute)); err != nil || n != 1 {
		t.Errorf("ForgetClaims of all claims: got %d, %v, want 1", n, err)
	}
	claimed("")
}

// TestContentDeletions proves that Bury marks a file deleted until Unearth deletes the tombstone, and that Graves lists
// the file until Delete has deleted its content.
func TestContentDeletions(t *testing.T) {
	s, db := newContent(t, sharedMongoDB(t).newDatabase(t))
	ctx := t.Context()
	f, err := put(ctx, s, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	state := func(wantBuried bool, wantGraves ...string) {
		t.Helper()
		if got, err := s.IsDeleted(ctx, f.ID); err != nil || got != wantBuried {
			t.Errorf("Buried: got %t, %v, want %t", got, err, wantBuried)
		}
		if got, err := s.PendingDeletions(ctx, time.Now().Add(time.Second), "", 10); err != nil || !slices.Equal(got, wantGraves) {
			t.Errorf("Graves: got %q, %v, want %q", got, err, wantGraves)
		}
	}
	state(false)
	for range 2 { // a second call is not an error
		if err := s.MarkDeleted(ctx, f.ID); err != nil {
			t.Fatal(err)
		}
	}
	state(true, f.ID)
	if got, err := s.PendingDeletions(ctx, time.Now().Add(time.Second), f.ID, 10); err != nil || len(got) != 0 {
		t.Errorf("Graves after the last ID: got %q, %v, want none", got, err)
	}
	if got, err := s.PendingDeletions(ctx, time.Now().Add(-time.Minute), "", 10); err != nil || len(got) != 0 {
		t.Errorf("Graves of a minute ago: got %q, %v, want none", got, err)
	}
	if err := s.Delete(ctx, f.ID); err != nil {
		t.Fatal(err)
	}
	state(true)
	if _, err := s.Get(ctx, f.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get after Delete: got error %v, want %v", err, problem.NotFound)
	}
	for want, before := range []time.Duration{-time.Minute, time.Minute} {
		if n, err := s.ForgetDeletions(ctx, time.Now().Add(before)); err != nil || n != int64(want) {
			t.Errorf("Unearth before now plus %v: got %d, %v, want %d", before, n, err, want)
		}
	}
	state(false)
	wantEmpty(t, db)
	if buried, err := s.IsDeleted(ctx, uuid.NewString()); err != nil || buried {
		t.Errorf("Buried of an unknown file: got %t, %v, want false", buried, err)
	}
}
