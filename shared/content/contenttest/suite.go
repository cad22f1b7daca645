package contenttest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"hash"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Store contains the methods of content.Store that the serverless functions use.
type Store interface {
	Put(ctx context.Context, f content.File, r io.Reader, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Get(ctx context.Context, id string) (content.File, error)
	Event(ctx context.Context, id string) ([]byte, error)
	IDs(ctx context.Context, after string, limit int) ([]string, error)
	Reader(ctx context.Context, f content.File) io.ReadSeekCloser
	Delete(ctx context.Context, id string) error

	Confirm(ctx context.Context, id string) error
	Confirmed(ctx context.Context, id string) (bool, error)
	Usage(ctx context.Context, owner string) (int64, error)
	Unfinished(ctx context.Context, before time.Time, after string, limit int) ([]content.Pending, error)
	Discard(ctx context.Context, id string) error

	Claim(ctx context.Context, key string, f content.File) (content.File, error)
	Claimed(ctx context.Context, key string) (f content.File, found bool, err error)
	ForgetClaims(ctx context.Context, before time.Time) (int64, error)

	MarkDeleted(ctx context.Context, id string) error
	IsDeleted(ctx context.Context, id string) (bool, error)
	PendingDeletions(ctx context.Context, before time.Time, after string, limit int) ([]string, error)
	ForgetDeletions(ctx context.Context, before time.Time) (int64, error)

	Create(ctx context.Context, u content.Upload) (content.Upload, error)
	Find(ctx context.Context, id string) (content.Upload, error)
	Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error)
	AppendVerified(ctx context.Context, id string, offset int64, r io.Reader, sum hash.Hash, want []byte, mismatch error) (int64, error)
	Finish(ctx context.Context, id string, finish func(*content.File) (event []byte, err error)) (content.File, error)
	Terminate(ctx context.Context, id string) error
}

var (
	_ Store = (*content.Store)(nil)
	_ Store = (*Memory)(nil)
)

// Test checks that a store behaves as documented for content.Store. Each call to the open function must return an
// empty store whose clock is time.Now.
func Test(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(suite){
		"Files": suite.files, "Refused": suite.refused, "Unfinished": suite.unfinished, "Claims": suite.claims,
		"Deletions": suite.deletions, "Resumable": suite.resumable, "Interrupted": suite.interrupted, "Verified": suite.verified,
		"Expired": suite.expired, "Terminated": suite.terminated, "Complete": suite.complete,
	} {
		t.Run(name, func(t *testing.T) { test(suite{open(t), t}) })
	}
}

// suite is a store and the test that checks it.
type suite struct {
	Store
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

// wantUnfinished fails the test unless upload records exist for exactly the given IDs.
func (s suite) wantUnfinished(want ...string) {
	s.Helper()
	var got []string
	pending, err := s.Unfinished(s.Context(), time.Now().Add(time.Second), "", 10)
	for _, p := range pending {
		got = append(got, p.ID)
	}
	if err != nil || !slices.Equal(got, want) {
		s.Errorf("Unfinished: got %q and error %v, want %q", got, err, want)
	}
}

func (s suite) wantUsage(want int64) {
	s.Helper()
	if got, err := s.Usage(s.Context(), "ada"); err != nil || got != want {
		s.Errorf("Usage: got %d and error %v, want %d", got, err, want)
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
			ContentType: "text/plain", StoredAt: f.StoredAt}, Key: "k"}
		if f.Info != want.Info || f.Key != want.Key || time.Since(f.StoredAt) > time.Minute || f.StoredAt.Location() != time.UTC {
			s.Errorf("Put: got %+v, want %+v", f, want)
		}
		if got, err := s.Get(s.Context(), f.ID); err != nil || got != f {
			s.Errorf("Get: got %+v and error %v, want %+v", got, err, f)
		}
		if got, err := s.Event(s.Context(), f.ID); err != nil || string(got) != `{"id":"`+f.ID+`"}` {
			s.Errorf("Event: got %s and error %v, want the event that finish returned", got, err)
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
	if got, err := s.IDs(s.Context(), ids[0], 1); err != nil || !slices.Equal(got, ids[1:2]) {
		s.Errorf("IDs after the first: got %q and error %v, want %q", got, err, ids[1:2])
	}
	s.wantUsage(1_500_005)
	for range 2 { // a second call is not an error
		s.want("Delete", s.Delete(s.Context(), ids[2]), nil)
	}
	for _, id := range []string{ids[2], uuid.NewString(), ""} {
		_, err := s.Get(s.Context(), id)
		s.want("Get", err, problem.NotFound)
		_, err = s.Event(s.Context(), id)
		s.want("Event", err, problem.NotFound)
	}
	s.wantUsage(5)
	s.wantUnfinished(ids[:2]...)
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
		s.wantUnfinished()
	}
}

// readerFunc implements io.Reader. Its Read method calls the function and returns 0 bytes and the function's error.
type readerFunc func() error

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

func (s suite) unfinished() {
	ids := []string{s.put("x").ID, s.put("x").ID, s.create(5, time.Hour)}
	for _, c := range []struct {
		age   time.Duration
		after string
		limit int
		want  []string
	}{{0, "", 2, ids[:2]}, {0, ids[1], 2, ids[2:]}, {time.Minute, "", 2, nil}} {
		found, err := s.Unfinished(s.Context(), time.Now().Add(time.Second-c.age), c.after, c.limit)
		var got []string
		for _, u := range found {
			got = append(got, u.ID)
			if resumable := u.ID == ids[2]; u.Resumable != resumable || u.ExpiresAt.IsZero() == resumable {
				s.Errorf("Unfinished: got %+v, want Resumable %t", u, resumable)
			}
		}
		if err != nil || !slices.Equal(got, c.want) {
			s.Errorf("Unfinished(now + %v, %q): got %q and error %v, want %q", time.Second-c.age, c.after, got, err, c.want)
		}
	}
	for _, want := range []bool{false, true} {
		if got, err := s.Confirmed(s.Context(), ids[0]); err != nil || got != want {
			s.Errorf("Confirmed: got %t and error %v, want %t", got, err, want)
		}
		s.want("Confirm", s.Confirm(s.Context(), ids[0]), nil)
		s.wantUnfinished(ids[1:]...)
		s.wantUsage(7)
	}
	// Check that the upload record already exists when Put reads the first byte, and that Usage counts the
	// declared length.
	_, err := s.Put(s.Context(), content.File{Info: file.Info{Owner: "ada", Size: 8}}, readerFunc(func() error {
		s.wantUsage(15)
		return io.ErrUnexpectedEOF
	}), anyEvent)
	s.want("Put", err, io.ErrUnexpectedEOF)
	s.wantUsage(7)
}

func (s suite) claims() {
	first, second := s.put("first"), s.put("second")
	for round, want := range []content.File{first, second} {
		if got, found, err := s.Claimed(s.Context(), "key"); err != nil || found {
			s.Errorf("Claimed: got %+v, %t, and error %v, want no file, false, and no error", got, found, err)
		}
		for _, f := range [][]content.File{{first, first, second}, {second, first}}[round] { // the same file can claim the key again
			if got, err := s.Claim(s.Context(), "key", f); err != nil || got != want {
				s.Errorf("Claim: got %+v and error %v, want %+v", got, err, want)
			}
		}
		if got, found, err := s.Claimed(s.Context(), "key"); err != nil || !found || got != want {
			s.Errorf("Claimed: got %+v, %t, and error %v, want %+v, true and no error", got, found, err, want)
		}
		for n, age := range []time.Duration{time.Minute, -time.Minute} {
			if got, err := s.ForgetClaims(s.Context(), time.Now().Add(-age)); err != nil || got != int64(n) {
				s.Errorf("ForgetClaims(now + %v): got %d and error %v, want %d", -age, got, err, n)
			}
		}
	}
}

func (s suite) deletions() {
	f := s.put("x")
	state := func(wantDeleted bool, wantPending ...string) {
		s.Helper()
		if got, err := s.IsDeleted(s.Context(), f.ID); err != nil || got != wantDeleted {
			s.Errorf("IsDeleted: got %t and error %v, want %t", got, err, wantDeleted)
		}
		if got, err := s.PendingDeletions(s.Context(), time.Now().Add(time.Second), "", 10); err != nil || !slices.Equal(got, wantPending) {
			s.Errorf("PendingDeletions: got %q and error %v, want %q", got, err, wantPending)
		}
	}
	state(false)
	for range 2 { // a second call is not an error
		s.want("MarkDeleted", s.MarkDeleted(s.Context(), f.ID), nil)
	}
	state(true, f.ID)
	for after, before := range map[string]time.Duration{f.ID: time.Second, "": -time.Minute} {
		if got, err := s.PendingDeletions(s.Context(), time.Now().Add(before), after, 10); err != nil || len(got) != 0 {
			s.Errorf("PendingDeletions(now + %v, %q): got %q and error %v, want no IDs and no error", before, after, got, err)
		}
	}
	s.want("Delete", s.Delete(s.Context(), f.ID), nil)
	state(true)
	_, err := s.Find(s.Context(), f.ID)
	s.want("Find", err, problem.NotFound)
	for want, before := range []time.Duration{-time.Minute, time.Minute} {
		if n, err := s.ForgetDeletions(s.Context(), time.Now().Add(before)); err != nil || n != int64(want) {
			s.Errorf("ForgetDeletions(now + %v): got %d and error %v, want %d", before, n, err, want)
		}
	}
	state(false)
}

func (s suite) resumable() {
	const page = "<!DOCTYPE html><title>x</title>"
	id := s.create(int64(len(page)), time.Hour)
	s.wantOffset(id, 0)
	s.wantUsage(int64(len(page)))
	s.append(id, 0, page[:5])
	s.wantOffset(id, 5)
	for _, offset := range []int64{0, 4, 6} {
		n, err := s.Append(s.Context(), id, offset, strings.NewReader(page))
		if s.want("Append at another offset", err, problem.Conflict); n != 0 {
			s.Errorf("Append at offset %d: got %d bytes, want 0", offset, n)
		}
	}
	_, err := s.Finish(s.Context(), id, anyEvent)
	s.want("Finish an incomplete upload", err, problem.Conflict)
	if n, err := s.Append(s.Context(), id, 5, strings.NewReader(page[5:]+"more")); err != nil || n != int64(len(page)-5) {
		s.Errorf("Append: got %d bytes and error %v, want only the remaining bytes", n, err)
	}
	var first content.File
	for range 2 { // the second call returns the same file
		f, err := s.Finish(s.Context(), id, anyEvent)
		if err != nil || f.ID != id || f.Owner != "ada" || f.SHA256 != digest([]byte(page)) || f.ContentType != "text/html; charset=utf-8" {
			s.Errorf("Finish: got %+v and error %v, want file %s", f, err, id)
		}
		if first.ID != "" && f != first {
			s.Errorf("Finish: got %+v, want %+v", f, first)
		}
		first = f
	}
	s.wantBytes(first, page)
	s.wantUsage(int64(len(page)))
	for _, unconfirmed := range []bool{true, false} {
		if u, err := s.Find(s.Context(), id); err != nil || !u.Stored || u.Unconfirmed != unconfirmed || !u.Complete() {
			s.Errorf("Find: got %+v and error %v, want a stored upload with Unconfirmed %t", u, err, unconfirmed)
		}
		s.want("Confirm", s.Confirm(s.Context(), id), nil)
	}
	_, err = s.Append(s.Context(), id, int64(len(page)), strings.NewReader("x"))
	s.want("Append to a file", err, problem.Conflict)
}

// interrupted checks that Append adds the bytes that arrive before a read error, and that Append returns a
// conflict error if another writer adds bytes at the same offset first.
func (s suite) interrupted() {
	id := s.create(10, time.Hour)
	n, err := s.Append(s.Context(), id, 0, io.MultiReader(strings.NewReader("hello"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if s.want("Append", err, io.ErrUnexpectedEOF); n != 5 {
		s.Errorf("Append: got %d bytes, want 5", n)
	}
	s.wantOffset(id, 5)
	_, err = s.Append(s.Context(), id, 5, io.MultiReader(strings.NewReader("W"), readerFunc(func() error {
		s.append(id, 5, "world")
		return io.EOF
	})))
	s.want("Append of a slow writer", err, problem.Conflict)
	f, err := s.Finish(s.Context(), id, anyEvent)
	s.want("Finish", err, nil)
	s.wantBytes(f, "helloworld")
}

func (s suite) verified() {
	id, mismatch := s.create(10, time.Hour), errors.New("mismatch")
	sum := sha1.Sum([]byte("hello"))
	for _, c := range []struct {
		b    string
		want error
	}{{"hullo", mismatch}, {"hello", nil}} {
		n, err := s.AppendVerified(s.Context(), id, 0, strings.NewReader(c.b), sha1.New(), sum[:], mismatch)
		if s.want("AppendVerified", err, c.want); c.want == nil && n != 5 || c.want != nil && n != 0 {
			s.Errorf("AppendVerified: got %d bytes and error %v, want 5 bytes and no error, or 0 bytes and an error", n, err)
		}
	}
	s.wantOffset(id, 5)
	s.wantUnfinished(id)
	_, err := s.AppendVerified(s.Context(), id, 0, strings.NewReader("hello"), sha1.New(), sum[:], mismatch)
	s.want("AppendVerified at another offset", err, problem.Conflict)
}

// expired checks that Find does not return an expired upload, but that Finish still turns the upload into a file.
func (s suite) expired() {
	id := s.create(5, -time.Second)
	s.append(id, 0, "hello")
	for _, id := range []string{id, "", "x", uuid.NewString(), "urn:uuid:" + id} {
		_, err := s.Find(s.Context(), id)
		s.want("Find", err, problem.NotFound)
	}
	f, err := s.Finish(s.Context(), id, anyEvent)
	s.want("Finish", err, nil)
	s.wantBytes(f, "hello")
}

func (s suite) terminated() {
	id := s.create(5, time.Hour)
	s.append(id, 0, "hel")
	s.want("Terminate", s.Terminate(s.Context(), id), nil)
	s.wantUsage(0)
	_, found := s.Find(s.Context(), id)
	_, appended := s.Append(s.Context(), id, 3, bytes.NewReader(nil))
	_, finished := s.Finish(s.Context(), id, anyEvent)
	for _, err := range []error{found, appended, finished, s.Terminate(s.Context(), id)} {
		s.want("terminated upload", err, problem.NotFound)
	}
	s.wantUnfinished(id) // the record remains until sweep calls Discard, because a writer might still be adding bytes
	pending, err := s.Unfinished(s.Context(), time.Now().Add(time.Second), "", 1)
	if err != nil || len(pending) != 1 || time.Since(pending[0].ExpiresAt).Abs() > time.Minute {
		s.Errorf("Unfinished: got %+v and error %v, want an upload that has just expired", pending, err)
	}
	s.want("Discard", s.Discard(s.Context(), id), nil)
	s.wantUnfinished()
}

// complete checks that an upload cannot be terminated or discarded after Finish has begun to turn it into a file.
func (s suite) complete() {
	id, broken := s.create(5, time.Hour), errors.New("broken")
	s.append(id, 0, "hello")
	_, err := s.Finish(s.Context(), id, func(*content.File) ([]byte, error) { return nil, broken })
	s.want("Finish", err, broken)
	for range 2 {
		s.want("Terminate", s.Terminate(s.Context(), id), problem.Conflict)
		s.want("Discard", s.Discard(s.Context(), id), problem.Conflict)
		f, err := s.Finish(s.Context(), id, anyEvent)
		s.want("Finish", err, nil)
		s.wantBytes(f, "hello")
	}
}
