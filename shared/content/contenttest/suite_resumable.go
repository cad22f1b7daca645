package contenttest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

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
	for range 2 { // before and after CloseNote
		if u, err := s.Find(s.Context(), id); err != nil || !u.Stored || !u.Complete() {
			s.Errorf("Find: got %+v and error %v, want a stored upload", u, err)
		}
		s.want("CloseNote", s.CloseNote(s.Context(), id), nil)
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
	for _, c := range []struct {
		b    string
		want error
	}{{"hullo", mismatch}, {"hello", nil}} {
		r := strings.NewReader(c.b)
		n, err := s.AppendVerified(s.Context(), id, 0, r, func() error {
			if r.Len() != 0 {
				s.Errorf("AppendVerified: got %d unread bytes, want none", r.Len())
			}
			return c.want
		})
		if s.want("AppendVerified", err, c.want); c.want == nil && n != 5 || c.want != nil && n != 0 {
			s.Errorf("AppendVerified: got %d bytes and error %v, want 5 bytes and no error, or 0 bytes and an error", n, err)
		}
	}
	s.wantOffset(id, 5)
	s.wantNotes(id)
	_, err := s.AppendVerified(s.Context(), id, 5, readerFunc(func() error {
		_, err := s.AppendVerified(s.Context(), id, 5, strings.NewReader("x"), func() error { return nil })
		s.want("a second AppendVerified at the same time", err, problem.Locked)
		return io.EOF
	}), func() error { return mismatch })
	s.want("AppendVerified", err, mismatch)
	_, err = s.AppendVerified(s.Context(), id, 0, strings.NewReader("hello"), func() error { return nil })
	s.want("AppendVerified at another offset", err, problem.Conflict)
}

// declared checks that an upload becomes a file only if it has the declared digest. Otherwise, Finish terminates it.
func (s suite) declared() {
	for _, c := range []struct {
		sum  string
		want error
	}{{digest([]byte("hello")), nil}, {digest([]byte("hullo")), problem.DigestMismatch}} {
		u, err := s.Create(s.Context(), content.Upload{Owner: "ada", SHA256: c.sum, Length: 5, ExpiresAt: time.Now().Add(time.Hour)})
		s.want("Create", err, nil)
		if found, err := s.Find(s.Context(), u.ID); err != nil || found.SHA256 != c.sum {
			s.Errorf("Find: got %+v and error %v, want the digest %s", found, err, c.sum)
		}
		s.append(u.ID, 0, "hello")
		_, err = s.Finish(s.Context(), u.ID, anyEvent)
		s.want("Finish", err, c.want)
		found, err := s.Find(s.Context(), u.ID)
		if c.want == nil {
			if err != nil || !found.Stored || found.SHA256 != c.sum {
				s.Errorf("Find: got %+v and error %v, want a file with the digest %s", found, err, c.sum)
			}
			continue
		}
		s.want("Find", err, problem.NotFound)
		_, err = s.Finish(s.Context(), u.ID, anyEvent)
		s.want("Finish again", err, problem.NotFound)
		s.wantUsage(5) // only the first upload
		if due, err := s.notes.Due(s.Context(), false, time.Now().Add(time.Second), 2); err != nil || len(due) != 2 ||
			time.Since(*due[1].ExpiresAt).Abs() > time.Minute {
			s.Errorf("Due: got %+v and error %v, want the file and an upload that has just expired", due, err)
		}
		s.want("Discard", s.Discard(s.Context(), u.ID), nil)
	}
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
	s.wantNotes(id) // the note remains until sweep calls Discard, because a writer might still be adding bytes
	due, err := s.notes.Due(s.Context(), false, time.Now().Add(time.Second), 1)
	if err != nil || len(due) != 1 || time.Since(*due[0].ExpiresAt).Abs() > time.Minute {
		s.Errorf("Due: got %+v and error %v, want an upload that has just expired", due, err)
	}
	s.want("Discard", s.Discard(s.Context(), id), nil)
	s.wantNotes()
}

// complete checks that the note of a complete upload is due, and that an upload cannot be terminated or discarded after
// it has become a file. If Finish fails before the commit, the upload remains complete.
func (s suite) complete() {
	id, broken := s.create(5, time.Hour), errors.New("broken")
	s.append(id, 0, "hell")
	for _, want := range []int{0, 1} {
		due, err := s.notes.Due(s.Context(), false, time.Now().Add(time.Second), 10)
		if err != nil || len(due) != want {
			s.Errorf("Due: got %+v and error %v, want %d notes", due, err, want)
		}
		if want == 0 {
			s.append(id, 4, "o")
		}
	}
	_, err := s.Finish(s.Context(), id, func(*content.File) ([]byte, error) { return nil, broken })
	s.want("Finish", err, broken)
	for range 2 {
		f, err := s.Finish(s.Context(), id, anyEvent)
		s.want("Finish", err, nil)
		s.wantBytes(f, "hello")
		s.want("Terminate", s.Terminate(s.Context(), id), problem.Conflict)
		s.want("Discard", s.Discard(s.Context(), id), problem.Conflict)
	}
}
