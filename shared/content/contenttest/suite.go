package contenttest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Store contains the methods of content.Store that the serverless functions use.
type Store interface {
	Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Get(ctx context.Context, id string) (content.File, error)
	IDs(ctx context.Context, after string, limit int) (ids []string, next string, err error)
	Reader(ctx context.Context, f content.File) io.ReadSeekCloser
	Room(ctx context.Context, owner string, least int64) (bytes int64, full, err error)

	Settle(ctx context.Context, note outbox.Note) error
	CloseNote(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error

	Claim(ctx context.Context, key string, f content.File) (content.File, error)
	Claimed(ctx context.Context, key string) (f content.File, found bool, err error)
	ForgetClaims(ctx context.Context, before time.Time) (int64, error)

	MarkDeleted(ctx context.Context, id string) error
	IsDeleted(ctx context.Context, id string) (bool, error)
	Delete(ctx context.Context, id string) error
	PendingDeletions(ctx context.Context, at time.Time, limit int) ([]string, error)
	PostponeDeletion(ctx context.Context, id string, until time.Time) error
	ForgetDeletions(ctx context.Context, before time.Time) error

	Create(ctx context.Context, u content.Upload) (content.Upload, error)
	Find(ctx context.Context, id string) (content.Upload, error)
	Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error)
	AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, verify func() error) (int64, error)
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Terminate(ctx context.Context, id string) error
}

// Notes contains the methods of outbox.Notes that the serverless functions use.
type Notes interface {
	Note(ctx context.Context, id string) (*outbox.Note, error)
	Postpone(ctx context.Context, id string, until time.Time) error
	Stored(ctx context.Context, id string, at time.Time, published int, due time.Time) error
	Adopt(ctx context.Context) error
	Due(ctx context.Context, stored bool, at time.Time, limit int) ([]outbox.Note, error)
	Waiting(ctx context.Context) (files int64, since time.Time, err error)
}

var (
	_ Store = (*content.Store)(nil)
	_ Store = (*Memory)(nil)
	_ Notes = (*outbox.Notes)(nil)
	_ Notes = MemoryNotes{}
)

// Test checks that a store and its notes behave as documented for content.Store and outbox.Notes. Each call to the open
// function must return an empty store whose clock is time.Now, and whose limits are Limits.
func Test(t *testing.T, open func(t *testing.T) (Store, Notes)) {
	for name, test := range map[string]func(suite){
		"Files": suite.files, "Refused": suite.refused, "Notes": suite.noted, "Waiting": suite.waiting, "Claims": suite.claims,
		"Deletions": suite.deletions, "Resumable": suite.resumable, "Interrupted": suite.interrupted, "Verified": suite.verified, "Declared": suite.declared,
		"Expired": suite.expired, "Terminated": suite.terminated, "Complete": suite.complete,
	} {
		t.Run(name, func(t *testing.T) {
			store, notes := open(t)
			test(suite{store, notes, t})
		})
	}
}

// Limits are the limits of the stores that Test checks.
var Limits = content.Limits{Bytes: 1 << 30}

// suite is a store and the test that checks it.
type suite struct {
	Store
	notes Notes
	*testing.T
}

// anyEvent returns a minimal event. Tests pass anyEvent to Put and Finish.
func anyEvent(f *content.File) ([]byte, error) { return []byte(`{"id":"` + f.ID + `"}`), nil }

func (s suite) put(b string) content.File {
	s.Helper()
	f, err := s.Put(s.Context(), content.File{Info: file.Info{Owner: "ada", Name: "notes Ω.txt", ContentType: "text/plain", Size: -1}, Key: "k"},
		strings.NewReader(b), anyEvent)
	if err != nil {
		s.Fatal(err)
	}
	return f
}

func (s suite) create(length int64, expires time.Duration) string {
	s.Helper()
	u, err := s.Create(s.Context(), content.Upload{Owner: "ada", Name: "x", Metadata: "m", Length: length, ExpiresAt: time.Now().Add(expires)})
	if err != nil {
		s.Fatal(err)
	}
	return u.ID
}

func (s suite) append(id string, offset int64, b string) {
	s.Helper()
	if n, err := s.Append(s.Context(), id, offset, strings.NewReader(b)); err != nil || n != int64(len(b)) {
		s.Fatalf("Append: got %d bytes and error %v, want %d", n, err, len(b))
	}
}

// want fails the test unless err wraps kind.
func (s suite) want(doing string, err, kind error) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%s: got error %v, want %v", doing, err, kind)
	}
}

// wantNotes fails the test unless notes exist for exactly the given IDs.
func (s suite) wantNotes(want ...string) {
	s.Helper()
	var got []string
	for _, stored := range []bool{false, true} {
		due, err := s.notes.Due(s.Context(), stored, time.Now().Add(1000*time.Hour), 100)
		if err != nil {
			s.Fatal(err)
		}
		for _, n := range due {
			got = append(got, n.ID)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("got notes of the uploads %q, want %q", got, want)
	}
}

func (s suite) wantUsage(want int64) {
	s.Helper()
	if got, _, err := s.Room(s.Context(), "ada", 0); err != nil || got != Limits.Bytes-want {
		s.Errorf("Room: got %d and error %v, want %d after a usage of %d", got, err, Limits.Bytes-want, want)
	}
}

func (s suite) wantOffset(id string, want int64) {
	s.Helper()
	if u, err := s.Find(s.Context(), id); err != nil || u.Offset != want || u.Stored || u.Owner != "ada" || u.Metadata != "m" {
		s.Errorf("Find: got %+v and error %v, want offset %d", u, err, want)
	}
}

func (s suite) wantBytes(f content.File, want string) {
	s.Helper()
	r := s.Reader(s.Context(), f)
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		s.Errorf("Reader: got %d bytes and error %v, want %d bytes", len(got), err, len(want))
	}
	if err := r.Close(); err != nil {
		s.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); len(want) > 0 && err == nil {
		s.Error("Read after Close: got no error, want one")
	}
}

func (s suite) files() {
	var ids []string
	for _, b := range []string{"", "hello", strings.Repeat("0123456789", 150_000)} {
		f := s.put(b)
		ids = append(ids, f.ID)
		want := content.File{Info: file.Info{ID: f.ID, Owner: "ada", Name: "notes Ω.txt", Size: int64(len(b)), SHA256: digest([]byte(b)),
			ContentType: "text/plain", StoredAt: f.StoredAt}, Key: "k", Event: `{"id":"` + f.ID + `"}`}
		if f.Info != want.Info || f.Key != want.Key || f.Event != want.Event || time.Since(f.StoredAt) > time.Minute || f.StoredAt.Location() != time.UTC {
			s.Errorf("Put: got %+v, want %+v", f, want)
		}
		if got, err := s.Get(s.Context(), f.ID); err != nil || got != f {
			s.Errorf("Get: got %+v and error %v, want %+v", got, err, f)
		}
		s.wantBytes(f, b)
		r := s.Reader(s.Context(), f)
		if _, err := r.Seek(-1, io.SeekStart); err == nil {
			s.Error("Seek before the start: got no error, want one")
		}
		if _, err := r.Seek(max(0, f.Size-3), io.SeekStart); err != nil {
			s.Error(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != b[max(0, len(b)-3):] {
			s.Errorf("Read after Seek: got %q and error %v, want the last 3 bytes", got, err)
		}
	}
	if got, next, err := s.IDs(s.Context(), ids[0], 1); err != nil || !slices.Equal(got, ids[1:2]) || next != ids[1] {
		s.Errorf("IDs after the first: got %q, %q and error %v, want %q", got, next, err, ids[1:2])
	}
	if got, next, err := s.IDs(s.Context(), ids[2], 1); err != nil || len(got) > 0 || next != "" {
		s.Errorf("IDs after the last: got %q, %q and error %v, want none", got, next, err)
	}
	s.wantUsage(1_500_005)
	for range 2 { // a second call is not an error
		s.want("MarkDeleted", s.MarkDeleted(s.Context(), ids[2]), nil)
		s.want("Delete", s.Delete(s.Context(), ids[2]), nil)
	}
	for _, id := range []string{ids[2], uuid.NewString(), ""} {
		_, err := s.Get(s.Context(), id)
		s.want("Get", err, problem.NotFound)
	}
	s.wantUsage(5)
	s.wantNotes(ids[:2]...)
}

func (s suite) refused() {
	broken := errors.New("broken")
	ctx, cancel := context.WithCancel(s.Context())
	for name, c := range map[string]struct {
		r      io.Reader
		finish error
		want   error
	}{
		"reader fails":    {io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil, io.ErrUnexpectedEOF},
		"finish fails":    {strings.NewReader("x"), broken, broken},
		"client canceled": {readerFunc(func() error { cancel(); return io.EOF }), nil, context.Canceled},
	} {
		call := s.Context()
		if c.want == context.Canceled {
			call = ctx
		}
		_, err := s.Put(call, content.File{Info: file.Info{Owner: "ada"}}, c.r, func(*content.File) ([]byte, error) { return nil, c.finish })
		s.want(name, err, c.want)
		s.wantUsage(0)
		s.wantNotes()
	}
}

// readerFunc implements io.Reader. Its Read method calls the function and returns 0 bytes and the function's error.
type readerFunc func() error

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

func (s suite) noted() {
	ids := []string{s.put("x").ID, s.put("x").ID, s.create(5, time.Hour), s.create(5, -time.Hour)}
	now := time.Now()
	s.want("Postpone", s.notes.Postpone(s.Context(), ids[0], now.Add(-time.Minute)), nil)
	s.want("Postpone", s.notes.Postpone(s.Context(), ids[1], now.Add(-2*time.Minute)), nil)
	for _, c := range []struct {
		at    time.Duration
		limit int
		want  []string
	}{
		{-3 * time.Hour, 10, nil}, {-time.Minute, 1, []string{ids[3]}}, {-time.Minute, 10, []string{ids[3], ids[1], ids[0]}},
		{2 * time.Hour, 10, []string{ids[3], ids[1], ids[0], ids[2]}},
	} {
		due, err := s.notes.Due(s.Context(), false, now.Add(c.at), c.limit)
		var got []string
		for _, n := range due {
			got = append(got, n.ID)
			if resumable := n.ID == ids[2] || n.ID == ids[3]; n.Owner != "ada" || (n.Tus != nil) != resumable || (n.ExpiresAt != nil) != resumable {
				s.Errorf("Due: got %+v, want Tus and ExpiresAt only for a resumable upload", n)
			}
		}
		if err != nil || !slices.Equal(got, c.want) {
			s.Errorf("Due(now + %v, %d): got %q and error %v, want %q", c.at, c.limit, got, err, c.want)
		}
	}
	s.want("Postpone without a note", s.notes.Postpone(s.Context(), uuid.NewString(), now), nil)
	s.want("Adopt", s.notes.Adopt(s.Context()), nil)
	for range 2 { // a second call is not an error
		s.want("CloseNote", s.CloseNote(s.Context(), ids[0]), nil)
		s.wantNotes(ids[1:]...)
		s.wantUsage(12)
		if note, err := s.notes.Note(s.Context(), ids[0]); err != nil || note != nil {
			s.Errorf("Note: got %+v and error %v, want none", note, err)
		}
	}
	// Check that the note already exists when Put reads the first byte, and that the declared length counts before the
	// commit.
	_, err := s.Put(s.Context(), content.File{Info: file.Info{Owner: "ada", Size: 8}}, io.MultiReader(readerFunc(func() error {
		if due, err := s.notes.Due(s.Context(), false, time.Now().Add(2*time.Hour), 10); err != nil || len(due) != len(ids) {
			s.Errorf("Due: got %d notes and error %v, want %d", len(due), err, len(ids))
		}
		return io.EOF
	}), strings.NewReader("12345678")), func(*content.File) ([]byte, error) {
		s.wantUsage(20)
		return nil, io.ErrUnexpectedEOF
	})
	s.want("Put", err, io.ErrUnexpectedEOF)
	s.wantUsage(12)
	// Check that the size of an upload counts before the commit, even if it was not declared.
	f, err := s.Put(s.Context(), content.File{Info: file.Info{Owner: "ada", Size: -1}}, strings.NewReader("four"), func(f *content.File) ([]byte, error) {
		s.wantUsage(16)
		return anyEvent(f)
	})
	s.want("Put", err, nil)
	s.want("Discard of a file", s.Discard(s.Context(), f.ID), problem.Conflict)
	s.wantUsage(16)
}

func (s suite) waiting() {
	want := func(want int64, wantSince time.Time) {
		s.Helper()
		if files, since, err := s.notes.Waiting(s.Context()); err != nil || files != want || !since.Equal(wantSince) {
			s.Errorf("Waiting: got %d, %v and error %v, want %d, %v", files, since, err, want, wantSince)
		}
	}
	want(0, time.Time{})
	first, second := s.put("x"), s.put("x")
	want(0, time.Time{})
	for n, f := range []content.File{second, first} {
		s.want("Stored", s.notes.Stored(s.Context(), f.ID, f.StoredAt, n, f.StoredAt), nil)
		want(int64(n+1), f.StoredAt)
	}
	for stored, ids := range map[bool][]string{false: nil, true: {first.ID, second.ID}} {
		due, err := s.notes.Due(s.Context(), stored, time.Now(), 10)
		var got []string
		for _, n := range due {
			if got = append(got, n.ID); n.Published != 0 && n.ID == second.ID || n.StoredAt == nil || !n.IsStored {
				s.Errorf("Due: got %+v, want the values that Stored set", n)
			}
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, ids) {
			s.Errorf("Due: got %q and error %v, want %q", got, err, ids)
		}
	}
	s.want("CloseNote", s.CloseNote(s.Context(), first.ID), nil)
	want(1, second.StoredAt)
}

func (s suite) claims() {
	wantClaimed := func(want string) {
		s.Helper()
		if got, found, err := s.Claimed(s.Context(), "key"); err != nil || found != (want != "") || got.ID != want {
			s.Errorf("Claimed: got %+v, %t, and error %v, want file %q", got, found, err, want)
		}
	}
	// put stores a file, and claims the key for the file before the commit. It returns the file, and the file to which
	// the key belongs.
	put := func(fail error) (f, claimer content.File) {
		s.Helper()
		f, err := s.Put(s.Context(), content.File{Info: file.Info{Owner: "ada"}, Key: "key"}, strings.NewReader("x"), func(f *content.File) (event []byte, err error) {
			if claimer, err = s.Claim(s.Context(), "key", *f); err == nil && claimer.ID == f.ID {
				claimer, err = s.Claim(s.Context(), "key", *f) // the same file can claim the key again
			}
			if fail != nil {
				err = fail
			}
			return nil, err
		})
		s.want("Put", err, fail)
		return f, claimer
	}
	wantClaimed("")
	put(errors.New("killed after the claim"))
	wantClaimed("")
	first, claimer := put(nil)
	if claimer.ID != first.ID {
		s.Errorf("Claim after a failed upload: got file %s, want %s", claimer.ID, first.ID)
	}
	wantClaimed(first.ID)
	if second, claimer := put(nil); claimer != first {
		s.Errorf("Claim of file %s: got %+v, want %+v", second.ID, claimer, first)
	}
	s.want("MarkDeleted", s.MarkDeleted(s.Context(), first.ID), nil)
	wantClaimed("")
	third, claimer := put(nil)
	if claimer.ID != third.ID {
		s.Errorf("Claim after a deletion: got file %s, want %s", claimer.ID, third.ID)
	}
	wantClaimed(third.ID)
	if n, err := s.ForgetClaims(s.Context(), time.Now().Add(-time.Minute)); err != nil || n != 0 {
		s.Errorf("ForgetClaims: got %d and error %v, want 0", n, err)
	}
	if n, err := s.ForgetClaims(s.Context(), time.Now().Add(time.Minute)); err != nil || n == 0 {
		s.Errorf("ForgetClaims: got %d and error %v, want at least 1", n, err)
	}
	wantClaimed("")
}

func (s suite) deletions() {
	files := []content.File{s.put("x"), s.put("x")}
	state := func(id string, wantDeleted bool, wantPending ...string) {
		s.Helper()
		if got, err := s.IsDeleted(s.Context(), id); err != nil || got != wantDeleted {
			s.Errorf("IsDeleted: got %t and error %v, want %t", got, err, wantDeleted)
		}
		if got, err := s.PendingDeletions(s.Context(), time.Now().Add(time.Second), 10); err != nil || !slices.Equal(got, wantPending) {
			s.Errorf("PendingDeletions: got %q and error %v, want %q", got, err, wantPending)
		}
	}
	id := files[0].ID
	state(id, false)
	for _, f := range []content.File{files[1], files[0], files[0]} { // a second call is not an error
		s.want("MarkDeleted", s.MarkDeleted(s.Context(), f.ID), nil)
		time.Sleep(2 * time.Millisecond) // the due times of the deletions must differ
	}
	state(id, true, files[1].ID, id)
	_, err := s.Get(s.Context(), id)
	s.want("Get", err, problem.NotFound)
	_, err = s.Find(s.Context(), id)
	s.want("Find", err, problem.NotFound)
	s.want("PostponeDeletion", s.PostponeDeletion(s.Context(), files[1].ID, time.Now()), nil)
	state(id, true, id, files[1].ID)
	if got, err := s.PendingDeletions(s.Context(), time.Now().Add(time.Second), 1); err != nil || !slices.Equal(got, []string{id}) {
		s.Errorf("PendingDeletions with the limit 1: got %q and error %v, want %q", got, err, id)
	}
	if got, err := s.PendingDeletions(s.Context(), time.Now().Add(-time.Minute), 10); err != nil || len(got) != 0 {
		s.Errorf("PendingDeletions a minute ago: got %q and error %v, want none", got, err)
	}
	for range 2 { // a second call is not an error
		s.want("Delete", s.Delete(s.Context(), id), nil)
		state(id, true, files[1].ID)
	}
	s.wantNotes(files[1].ID)
	state(uuid.NewString(), true, files[1].ID)
	s.want("ForgetDeletions", s.ForgetDeletions(s.Context(), time.Now()), nil)
	state(id, true, files[1].ID)
}
