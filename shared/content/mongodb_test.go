package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

const mebi = 1 << 20

// anyEvent is a finish function for Put that returns a fixed event.
func anyEvent(*content.File) ([]byte, error) { return []byte(`{"id":"1"}`), nil }

// put stores b as a file that belongs to ada.
func put(ctx context.Context, s *content.Store, b []byte) (content.File, error) {
	return s.Put(ctx, content.File{Info: file.Info{Owner: "ada", Name: "notes Ω.txt", ContentType: "text/plain"}}, bytes.NewReader(b), anyEvent)
}

// deleteFile deletes a file as the files function does.
func deleteFile(t *testing.T, s *content.Store, id string) {
	t.Helper()
	if err := errors.Join(s.MarkDeleted(t.Context(), id), s.Delete(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
}

// wantEmpty checks that the database has no files, chunks, journal entries, notes, claims and deletion records. It can
// have tombstones.
func wantEmpty(t *testing.T, db *mongo.Database) {
	t.Helper()
	for name, filter := range map[string]bson.D{
		"fs.files": {{Key: "metadata.ended_at", Value: nil}}, "fs.chunks": {}, "uploads": {}, "uploads.journal": {}, "uploads.claims": {}, "deletions": {},
	} {
		if n := servertest.CountDocuments(t, db.Collection(name), filter); n != 0 {
			t.Errorf("got %d documents in %s, want none", n, name)
		}
	}
}

// TestContentStore proves that content.Store and contenttest.Memory do the same.
func TestContentStore(t *testing.T) {
	contenttest.Test(t, func(t *testing.T) (contenttest.Store, contenttest.Notes) {
		s, _ := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
		s.Limits = contenttest.Limits
		return s, s.Notes
	})
}

// TestContentSizes proves that files of sizes around the chunk size are stored completely, and that Reader and the
// GridFS of the driver read the same bytes.
func TestContentSizes(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	for _, size := range []int{0, 1, mebi - 1, mebi, mebi + 1, 20 * mebi} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := servertest.RandomBytes(size)
			f, err := put(t.Context(), s, want)
			if err != nil {
				t.Fatal(err)
			}
			if f.Size != int64(size) || f.SHA256 != servertest.SHA256(want) {
				t.Errorf("got size %d and SHA-256 %s, want %d and %s", f.Size, f.SHA256, size, servertest.SHA256(want))
			}
			if id, err := uuid.Parse(f.ID); err != nil || id.Version() != 7 {
				t.Errorf("got the ID %q, want a UUIDv7", f.ID)
			}
			got, err := s.Get(t.Context(), f.ID)
			if err != nil || got != f {
				t.Errorf("Get: got %+v (%v), want %+v", got, err, f)
			}
			r := s.Reader(t.Context(), got)
			read, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(read, want) {
				t.Errorf("Reader: got %d bytes with the digest %s (%v), want %d bytes with %s", len(read), servertest.SHA256(read), err, size, servertest.SHA256(want))
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if chunks := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: f.ID}}); chunks != int64((size+mebi-1)/mebi) {
				t.Errorf("got %d chunks for %d bytes, want %d", chunks, size, (size+mebi-1)/mebi)
			}
			// The GridFS implementation of a driver must be able to read the file.
			stock, err := db.GridFSBucket().OpenDownloadStream(t.Context(), f.ID)
			if err != nil {
				t.Fatal(err)
			}
			read, err = io.ReadAll(stock)
			if err != nil || !bytes.Equal(read, want) {
				t.Errorf("GridFS of the driver: got %d bytes with the digest %s (%v), want %d bytes with %s",
					len(read), servertest.SHA256(read), err, size, servertest.SHA256(want))
			}
			if file := stock.GetFile(); file.Name != f.Name || file.Length != f.Size || !file.UploadDate.Equal(f.StoredAt) {
				t.Errorf("GridFS of the driver: got %+v, want %+v", file, f)
			}
		})
	}
}

// TestContentDocument proves that the file document contains the owner, the event and the digest, and that a deletion
// leaves only a tombstone.
func TestContentDocument(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	f, err := put(t.Context(), s, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	document := func() (d struct {
		Metadata struct{ Owner, Event, SHA256 string }
	}) {
		t.Helper()
		if err := db.Collection("fs.files").FindOne(t.Context(), bson.D{{Key: "_id", Value: f.ID}}).Decode(&d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	if m := document().Metadata; m.Owner != "ada" || m.Event != `{"id":"1"}` || m.SHA256 != servertest.SHA256([]byte("x")) {
		t.Errorf(`got the metadata %+v, want the owner ada, the event {"id":"1"} and the digest %s`, m, servertest.SHA256([]byte("x")))
	}
	if got, err := s.Get(t.Context(), f.ID); err != nil || got.Event != `{"id":"1"}` {
		t.Errorf(`Get: got %+v and error %v, want the event {"id":"1"}`, got, err)
	}
	if _, err := s.Get(t.Context(), uuid.NewString()); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get of an unknown file: got error %v, want %v", err, problem.NotFound)
	}
	if _, err := s.Get(t.Context(), uuid.NewString()); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get of an unknown file: got error %v, want %v", err, problem.NotFound)
	}
	for range 2 { // a second call is not an error
		deleteFile(t, s, f.ID)
		wantEmpty(t, db)
	}
	if m := document().Metadata; m.Owner != "" || m.Event != "" || m.SHA256 != "" {
		t.Errorf("got a tombstone with the metadata %+v, want no owner, event and digest", m)
	}
}

// TestContentConcurrently proves that concurrent uploads do not corrupt each other.
func TestContentConcurrently(t *testing.T) {
	s, _ := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	var group errgroup.Group
	for i := range 16 {
		group.Go(func() error {
			want := servertest.RandomBytes(2*mebi + 1000*i)
			f, err := put(t.Context(), s, want)
			if err != nil {
				return err
			}
			got, err := io.ReadAll(s.Reader(t.Context(), f))
			if err == nil && (f.SHA256 != servertest.SHA256(want) || !bytes.Equal(got, want)) {
				err = errors.New("the stored bytes differ from the uploaded bytes")
			}
			if err != nil {
				return fmt.Errorf("file %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// TestContentRefused proves that Put leaves no documents in the database if the body cannot be read completely, if
// finish returns an error, or if the client cancels the request.
func TestContentRefused(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		end    error
		finish error
		want   error
	}{
		"reader fails":       {broken, nil, broken},
		"body is incomplete": {io.ErrUnexpectedEOF, nil, io.ErrUnexpectedEOF},
		"finish fails":       {io.EOF, problem.DigestMismatch, problem.DigestMismatch},
		"client cancels":     {context.Canceled, nil, context.Canceled},
	} {
		for _, size := range []int{0, 10, mebi, 5*mebi + 10} {
			t.Run(fmt.Sprintf("%s after %d bytes", name, size), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, err := s.Put(ctx, content.File{Info: file.Info{Owner: "ada"}}, servertest.NewReader(size, func() error {
					if c.end == context.Canceled {
						cancel()
						return io.EOF
					}
					return c.end
				}), func(*content.File) ([]byte, error) { return nil, c.finish })
				if !errors.Is(err, c.want) {
					t.Errorf("Put: got error %v, want %v", err, c.want)
				}
				wantEmpty(t, db)
			})
		}
	}
}

// TestContentBrokenFile proves that Reader returns an error, and no wrong bytes, at a chunk that is missing or too
// short.
func TestContentBrokenFile(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	chunks := db.Collection("fs.chunks")
	for name, c := range map[string]func(chunk bson.D) error{
		"missing chunk": func(chunk bson.D) error {
			_, err := chunks.DeleteOne(t.Context(), chunk)
			return err
		},
		"short chunk": func(chunk bson.D) error {
			_, err := chunks.UpdateOne(t.Context(), chunk, bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: []byte("x")}}}})
			return err
		},
	} {
		for n := range 3 {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				f, err := put(t.Context(), s, servertest.RandomBytes(2*mebi+5))
				if err != nil {
					t.Fatal(err)
				}
				if err := c(bson.D{{Key: "files_id", Value: f.ID}, {Key: "n", Value: n}}); err != nil {
					t.Fatal(err)
				}
				read, err := io.Copy(io.Discard, s.Reader(t.Context(), f))
				if err == nil || !strings.Contains(err.Error(), "is corrupt") || read != int64(n*mebi) {
					t.Errorf("Reader: got %d bytes and error %v, want %d bytes and an error that the file is corrupt", read, err, n*mebi)
				}
			})
		}
	}
}

// TestContentRanges proves that Reader works with http.ServeContent for byte ranges, in particular around the chunk
// boundaries, and that it fails after Close and for a position before the start.
func TestContentRanges(t *testing.T) {
	s, _ := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	all := servertest.RandomBytes(3*mebi + 7)
	f, err := put(t.Context(), s, all)
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string][]byte{
		"":                        all,
		"bytes=0-0":               all[:1],
		"bytes=1048575-1048576":   all[mebi-1 : mebi+1],
		"bytes=1048576-2097151":   all[mebi : 2*mebi],
		"bytes=-7":                all[3*mebi:],
		"bytes=-8":                all[3*mebi-1:],
		"bytes=3145734-999999999": all[3*mebi+6:],
	} {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		if header != "" {
			request.Header.Set("Range", header)
		}
		answer := httptest.NewRecorder()
		http.ServeContent(answer, request, "x.bin", f.StoredAt, s.Reader(t.Context(), f))
		if got := answer.Body.Bytes(); !bytes.Equal(got, want) {
			t.Errorf("Range %q: got %d bytes with the digest %s, want %d with %s", header, len(got), servertest.SHA256(got), len(want), servertest.SHA256(want))
		}
	}
	r := s.Reader(t.Context(), f)
	if n, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Errorf("Seek before the start: got position %d, want an error", n)
	}
	if _, err := r.Seek(10, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read after the end: got %d bytes and error %v, want 0 and %v", n, err, io.EOF)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("Read after Close: got no error, want an error")
	}
}

// TestContentIndexesConcurrently proves that several processes can call EnsureIndexes at the same time, and that the
// unique index rejects a duplicate chunk.
func TestContentIndexesConcurrently(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return s.EnsureIndexes(t.Context()) })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	chunk := bson.D{{Key: "files_id", Value: "f"}, {Key: "n", Value: 0}}
	if _, err := db.Collection("fs.chunks").InsertOne(t.Context(), chunk); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Collection("fs.chunks").InsertOne(t.Context(), chunk); !mongo.IsDuplicateKeyError(err) {
		t.Errorf("insert a chunk twice: got error %v, want a duplicate key error", err)
	}
}
