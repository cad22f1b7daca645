package content_test

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// wantOffset checks the offset of an upload, which is the number of its stored bytes.
func wantOffset(t *testing.T, s *content.Store, id string, want int) {
	t.Helper()
	if u, err := s.Find(t.Context(), id); err != nil || u.Offset != int64(want) {
		t.Fatalf("Find: got offset %d and error %v, want %d", u.Offset, err, want)
	}
}

// wantFinished calls Finish for an upload and checks the file. Reader and the driver's GridFS must both read the bytes
// want. After CloseNote, the journal must have no entry for the upload.
func wantFinished(t *testing.T, s *content.Store, db *mongo.Database, id string, want []byte) {
	t.Helper()
	f, err := s.Finish(t.Context(), id, anyEvent)
	if err != nil {
		t.Fatal(err)
	}
	if f.Event != `{"id":"1"}` || f.Owner != "ada" || f.Name != "notes Ω.txt" || f.ContentType != "text/plain" || f.SHA256 != servertest.SHA256(want) || f.Size != int64(len(want)) {
		t.Errorf("Finish: got %+v, want the file that was created, with %d bytes and the digest %s",
			f, len(want), servertest.SHA256(want))
	}
	got, err := io.ReadAll(s.Reader(t.Context(), f))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Reader: got %d bytes with the digest %s and error %v, want %d bytes with %s",
			len(got), servertest.SHA256(got), err, len(want), servertest.SHA256(want))
	}
	stock, err := db.GridFSBucket().OpenDownloadStream(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(stock); err != nil || !bytes.Equal(got, want) {
		t.Errorf("GridFS of the driver: got %d bytes with the digest %s and error %v, want %d bytes with %s",
			len(got), servertest.SHA256(got), err, len(want), servertest.SHA256(want))
	}
	if u, err := s.Find(t.Context(), id); err != nil || !u.Stored || !u.Complete() {
		t.Errorf("Find: got %+v and error %v, want a stored file", u, err)
	}
	if err := s.CloseNote(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	servertest.WantNoJournal(t, db, id)
}

// TestResumable proves that an upload results in the same file, however its bytes are distributed over requests.
func TestResumable(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	for _, c := range []struct {
		length int
		cuts   []int // the offsets at which requests end, without the last request
	}{
		{0, nil},
		{1, nil},
		{mebi, nil},
		{mebi - 1, []int{1, 2, mebi - 2}},
		{mebi + 1, []int{mebi}},
		{mebi + 1, []int{mebi - 1}},
		{5*mebi + 123, []int{17, 300_000, mebi, 2*mebi + 1, 2*mebi + 2, 5 * mebi, 5*mebi + 100}},
		{3 * mebi, []int{100, mebi + 5}},
		{60_000, slices.Collect(func(yield func(int) bool) { // many small requests
			for n := 1000; n < 60_000 && yield(n); n += 1000 {
			}
		})},
	} {
		t.Run(fmt.Sprintf("%d bytes in %d requests", c.length, len(c.cuts)+1), func(t *testing.T) {
			want := servertest.RandomBytes(c.length)
			u := servertest.CreateUpload(t, s, c.length)
			offset := 0
			for _, cut := range append(c.cuts, c.length) {
				wantOffset(t, s, u.ID, offset)
				servertest.AddPiece(t, s, u.ID, offset, want[offset:cut])
				offset = cut
			}
			wantFinished(t, s, db, u.ID, want)
		})
	}
}

// TestResumableInterruptedRequest proves that Append keeps the bytes that it read before the request was interrupted,
// and that the next Append must continue at exactly that offset.
func TestResumableInterruptedRequest(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(3*mebi + 10)
	u := servertest.CreateUpload(t, s, len(want))
	cut := errors.New("cut off")
	r := io.MultiReader(bytes.NewReader(want[:mebi+500]), iotest.ErrReader(cut))
	if added, err := s.Append(t.Context(), u.ID, 0, r); !errors.Is(err, cut) || added != mebi+500 {
		t.Errorf("Append with an interruption: got %d bytes and error %v, want %d and %v", added, err, mebi+500, cut)
	}
	wantOffset(t, s, u.ID, mebi+500)
	if _, err := s.Finish(t.Context(), u.ID, anyEvent); !errors.Is(err, problem.Conflict) {
		t.Errorf("Finish of an incomplete upload: got error %v, want %v", err, problem.Conflict)
	}
	for _, offset := range []int{0, 1, mebi, mebi + 499, mebi + 501} {
		if added, err := s.Append(t.Context(), u.ID, int64(offset), bytes.NewReader(want)); !errors.Is(err, problem.Conflict) || added != 0 {
			t.Errorf("Append at offset %d: got %d bytes and error %v, want 0 and %v", offset, added, err, problem.Conflict)
		}
	}
	servertest.AddPiece(t, s, u.ID, mebi+500, want[mebi+500:])
	wantFinished(t, s, db, u.ID, want)
}

// TestResumableManyWriters proves that a file is consistent if several writers concurrently append different bytes to
// its upload. The digest of the file matches its bytes, and concurrent calls of Finish return the same file.
func TestResumableManyWriters(t *testing.T) {
	s, _ := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	const length, writers = 5*mebi/2 + 7, 4
	for round := range 3 {
		u := servertest.CreateUpload(t, s, length)
		group, ctx := errgroup.WithContext(t.Context())
		var conflicts atomic.Int64
		for w := range writers {
			group.Go(func() error {
				random := rand.New(rand.NewPCG(uint64(round), uint64(w)))
				for {
					now, err := s.Find(ctx, u.ID)
					if err != nil || now.Complete() {
						return err
					}
					part := bytes.Repeat([]byte{byte('a' + w)}, 1+random.IntN(mebi))
					_, err = s.Append(ctx, u.ID, now.Offset, bytes.NewReader(part))
					if errors.Is(err, problem.Conflict) {
						conflicts.Add(1)
					} else if err != nil {
						return err
					}
				}
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		finishers, ctx := errgroup.WithContext(t.Context())
		files := make([]content.File, writers)
		for w := range writers {
			finishers.Go(func() (err error) {
				files[w], err = s.Finish(ctx, u.ID, anyEvent)
				return err
			})
		}
		if err := finishers.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f != files[0] {
				t.Errorf("Finish: got the files %+v and %+v, want the same file", f, files[0])
			}
		}
		got, err := io.ReadAll(s.Reader(t.Context(), files[0]))
		if err != nil || len(got) != length || servertest.SHA256(got) != files[0].SHA256 {
			t.Errorf("Reader: got %d bytes with the digest %s and error %v, want %d bytes with %s",
				len(got), servertest.SHA256(got), err, length, files[0].SHA256)
		}
		t.Logf("round %d: %d conflicts", round, conflicts.Load())
	}
}

// TestResumableAfterAKill proves that an upload can be continued and finished after its writer was killed between two
// writes to the database. The test produces the state after such a kill directly in the database.
func TestResumableAfterAKill(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	journal := db.Collection("uploads.journal")
	want := servertest.RandomBytes(2*mebi + 900)
	last := func(id string, offset int) bson.D {
		return bson.D{{Key: "_id", Value: fmt.Sprintf("%s/%020d", id, offset)}}
	}
	for name, c := range map[string]struct{ had, pieceAt int }{
		"a full chunk without its journal entry":      {mebi, 0},
		"a partial chunk without its journal entry":   {mebi + 700, mebi},
		"the last chunk without its journal entry":    {len(want), 2 * mebi},
		"the first bytes without their journal entry": {5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			u := servertest.CreateUpload(t, s, len(want))
			servertest.AddPiece(t, s, u.ID, 0, want[:c.had])
			if res, err := journal.DeleteOne(t.Context(), last(u.ID, c.pieceAt)); err != nil || res.DeletedCount != 1 {
				t.Fatalf("delete a journal entry: got %+v and error %v, want 1 deleted document", res, err)
			}
			wantOffset(t, s, u.ID, c.had)
			addPieceUnlessComplete(t, s, u.ID, c.had, want)
			wantFinished(t, s, db, u.ID, want)
		})
	}
	t.Run("a chunk that is not assembled from its pieces", func(t *testing.T) {
		u := servertest.CreateUpload(t, s, len(want))
		servertest.AddPiece(t, s, u.ID, 0, want[:300])
		state := sha256.New()
		state.Write(want[:mebi])
		marshaled, err := state.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := journal.InsertOne(t.Context(), append(last(u.ID, 300), bson.D{{Key: "offset", Value: int64(300)}, {Key: "length", Value: int64(mebi - 300)},
			{Key: "index", Value: int64(1)}, {Key: "sum", Value: marshaled}, {Key: "apart", Value: true}, {Key: "data", Value: want[300:mebi]}}...)); err != nil {
			t.Fatal(err)
		}
		wantOffset(t, s, u.ID, mebi)
		if n := servertest.CountDocuments(t, journal, bson.D{{Key: "data", Value: bson.D{{Key: "$exists", Value: true}}}}); n != 0 {
			t.Errorf("got %d pieces with bytes in the journal, want none", n)
		}
		servertest.AddPiece(t, s, u.ID, mebi, want[mebi:])
		wantFinished(t, s, db, u.ID, want)
	})
	t.Run("a seal of the previous version", func(t *testing.T) {
		for outcome, wantErr := range map[string]error{"complete": nil, "terminated": problem.NotFound, "expired": problem.NotFound} {
			u := servertest.CreateUpload(t, s, len(want))
			servertest.AddPiece(t, s, u.ID, 0, want)
			if _, err := journal.InsertOne(t.Context(), bson.D{{Key: "_id", Value: u.ID + "/end"}, {Key: "by", Value: outcome}}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Find(t.Context(), u.ID); !errors.Is(err, wantErr) {
				t.Errorf("Find with the seal %q: got error %v, want %v", outcome, err, wantErr)
			}
			if _, err := s.Finish(t.Context(), u.ID, anyEvent); !errors.Is(err, wantErr) {
				t.Errorf("Finish with the seal %q: got error %v, want %v", outcome, err, wantErr)
			}
		}
	})
	t.Run("more pieces than the limit", func(t *testing.T) {
		u := servertest.CreateUpload(t, s, len(want))
		servertest.AddPiece(t, s, u.ID, 0, want[:10])
		// Produce the state after 10,000 pieces, which each upload may have.
		if _, err := journal.UpdateOne(t.Context(), last(u.ID, 0), bson.D{{Key: "$set", Value: bson.D{{Key: "index", Value: int64(10_000)}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), u.ID, 10, bytes.NewReader(want[10:20])); !errors.Is(err, problem.BadRequest) {
			t.Errorf("Append of a small piece: got error %v, want %v", err, problem.BadRequest)
		}
		servertest.AddPiece(t, s, u.ID, 10, want[10:]) // larger requests are still accepted
		wantFinished(t, s, db, u.ID, want)
	})
	t.Run("a chunk that a failover has removed", func(t *testing.T) {
		for _, n := range []int{0, 1, 2} {
			u := servertest.CreateUpload(t, s, len(want))
			servertest.AddPiece(t, s, u.ID, 0, want)
			if _, err := db.Collection("fs.chunks").DeleteOne(t.Context(), bson.D{{Key: "files_id", Value: u.ID}, {Key: "n", Value: n}}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Finish(t.Context(), u.ID, anyEvent); !errors.Is(err, problem.Conflict) {
				t.Errorf("Finish without chunk %d: got error %v, want %v", n, err, problem.Conflict)
			}
		}
	})
}

// addPieceUnlessComplete appends the bytes of want from offset on, if any.
func addPieceUnlessComplete(t *testing.T, s *content.Store, id string, offset int, want []byte) {
	t.Helper()
	if offset < len(want) {
		servertest.AddPiece(t, s, id, offset, want[offset:])
	}
}

// TestResumableLateWriter proves that a slow writer cannot change a file that another writer has completed in the
// meantime, whether or not the note of the upload is closed. The slow writer gets problem.Conflict and leaves no
// journal entry.
func TestResumableLateWriter(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(2*mebi + 900)
	for _, noteOpen := range []bool{false, true} {
		for _, cut := range []int{0, 300, mebi, mebi + 300, 2*mebi + 898} {
			u := servertest.CreateUpload(t, s, len(want))
			if cut > 0 {
				servertest.AddPiece(t, s, u.ID, 0, want[:cut])
			}
			r, w := io.Pipe()
			late := make(chan error, 1)
			go func() {
				_, err := s.Append(t.Context(), u.ID, int64(cut), r)
				late <- err
			}()
			if _, err := w.Write([]byte("f")); err != nil { // returns after the late writer has found the upload and reads
				t.Fatal(err)
			}
			servertest.AddPiece(t, s, u.ID, cut, want[cut:])
			if noteOpen {
				if _, err := s.Finish(t.Context(), u.ID, anyEvent); err != nil {
					t.Fatal(err)
				}
			} else {
				wantFinished(t, s, db, u.ID, want)
			}
			go func() {
				_, _ = w.Write(bytes.Repeat([]byte("forged"), len(want))) // returns when the reader is closed
			}()
			if err := <-late; !errors.Is(err, problem.Conflict) {
				t.Errorf("late Append at offset %d: got error %v, want %v", cut, err, problem.Conflict)
			}
			_ = r.Close()
			f, err := s.Get(t.Context(), u.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s.Reader(t.Context(), f)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("file after a late Append at offset %d: got %d bytes with the digest %s and error %v, want %d bytes with %s",
					cut, len(got), servertest.SHA256(got), err, len(want), servertest.SHA256(want))
			}
			servertest.WantNoJournal(t, db, u.ID)
		}
	}
}

// TestResumableTerminate proves that Terminate deletes an upload, also while a writer appends to it. If Finish and
// Terminate run concurrently, exactly one of them succeeds.
func TestResumableTerminate(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(mebi + 5)
	t.Run("during Append", func(t *testing.T) {
		u := servertest.CreateUpload(t, s, len(want))
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := s.Append(t.Context(), u.ID, 0, r)
			done <- err
		}()
		if _, err := w.Write(want[:1]); err != nil {
			t.Fatal(err)
		}
		if err := s.Terminate(t.Context(), u.ID); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = w.Write(want[1:])
			_ = w.Close()
		}()
		if err := <-done; !errors.Is(err, problem.NotFound) {
			t.Errorf("Append: got error %v, want %v", err, problem.NotFound)
		}
		for _, err := range []error{ask(s.Find(t.Context(), u.ID)), s.Terminate(t.Context(), u.ID)} {
			if !errors.Is(err, problem.NotFound) {
				t.Errorf("Find or Terminate afterward: got error %v, want %v", err, problem.NotFound)
			}
		}
		if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{}); n != 0 {
			t.Errorf("got %d chunks, want none", n)
		}
		s.Limits = content.Limits{Bytes: 100}
		if room, _, err := s.Room(t.Context(), "ada", 0); err != nil || room != 100 {
			t.Errorf("Room: got %d and error %v, want 100", room, err)
		}
		s.Limits = content.Limits{}
		if err := s.Discard(t.Context(), u.ID); err != nil { // sweep also calls Discard, some time later
			t.Fatal(err)
		}
		wantEmpty(t, db)
	})
	t.Run("during Finish", func(t *testing.T) {
		outcomes := map[bool]int{}
		for range 10 {
			u := servertest.CreateUpload(t, s, len(want))
			servertest.AddPiece(t, s, u.ID, 0, want)
			var finished, terminated error
			group := errgroup.Group{}
			group.Go(func() error { _, finished = s.Finish(t.Context(), u.ID, anyEvent); return nil })
			group.Go(func() error { terminated = s.Terminate(t.Context(), u.ID); return nil })
			_ = group.Wait()
			outcomes[finished == nil]++
			if finished == nil {
				if !errors.Is(terminated, problem.Conflict) {
					t.Errorf("Terminate after a successful Finish: got error %v, want %v", terminated, problem.Conflict)
				}
				wantFinished(t, s, db, u.ID, want)
				deleteFile(t, s, u.ID)
			} else {
				if terminated != nil || !errors.Is(finished, problem.NotFound) {
					t.Errorf("got error %v from Finish and %v from Terminate, want success of exactly one of them", finished, terminated)
				}
				if err := s.Discard(t.Context(), u.ID); err != nil {
					t.Fatal(err)
				}
			}
			wantEmpty(t, db)
		}
		t.Logf("outcomes of Finish, by success: %v", outcomes)
	})
}

// TestResumableDeletedByPrevious proves that a file does not come back if a function of the previous version deletes it
// while Finish is between its checks and its commit. The previous version deletes the document of the file.
func TestResumableDeletedByPrevious(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	u := servertest.CreateUpload(t, s, 1)
	servertest.AddPiece(t, s, u.ID, 0, []byte("x"))
	_, err := s.Finish(t.Context(), u.ID, func(f *content.File) ([]byte, error) {
		if _, err := s.Finish(t.Context(), u.ID, anyEvent); err != nil {
			t.Fatal(err)
		}
		_, marked := db.Collection("deletions.tombstones").InsertOne(t.Context(), bson.D{{Key: "_id", Value: u.ID}, {Key: "buried_at", Value: time.Now()}})
		_, deleted := db.Collection("fs.files").DeleteOne(t.Context(), bson.D{{Key: "_id", Value: u.ID}})
		if err := errors.Join(marked, deleted); err != nil {
			t.Fatal(err)
		}
		return anyEvent(f)
	})
	if !errors.Is(err, problem.NotFound) {
		t.Errorf("Finish: got error %v, want %v", err, problem.NotFound)
	}
	if f, err := s.Get(t.Context(), u.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get: got file %+v and error %v, want %v", f, err, problem.NotFound)
	}
	if ids, err := s.PendingDeletions(t.Context(), time.Now().Add(time.Minute), 2); err != nil || !slices.Equal(ids, []string{u.ID}) {
		t.Errorf("PendingDeletions: got %q and error %v, want the file", ids, err)
	}
}

// ask returns the error of a call that also returns an upload.
func ask(_ content.Upload, err error) error { return err }

// TestResumableVerified proves that AppendVerified adds the bytes of a request only if they are verified, and that it
// leaves no other chunks behind.
func TestResumableVerified(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(3*mebi + 10)
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want[:mebi+1])
	mismatch := errors.New("mismatch")
	if added, err := s.AppendVerified(t.Context(), u.ID, mebi+1, bytes.NewReader(want[mebi+1:]), func() error { return mismatch }); !errors.Is(err, mismatch) || added != 0 {
		t.Errorf("AppendVerified of wrong bytes: got %d bytes and error %v, want 0 and %v", added, err, mismatch)
	}
	wantOffset(t, s, u.ID, mebi+1)
	if n := servertest.CountDocuments(t, db.Collection("fs.chunks"), bson.D{{Key: "files_id", Value: bson.D{{Key: "$ne", Value: u.ID}}}}); n != 0 {
		t.Errorf("got %d chunks that do not belong to the upload, want none", n)
	}
	if added, err := s.AppendVerified(t.Context(), u.ID, mebi+1, bytes.NewReader(want[mebi+1:]), func() error { return nil }); err != nil || added != 2*mebi+9 {
		t.Errorf("AppendVerified: got %d bytes and error %v, want %d and no error", added, err, 2*mebi+9)
	}
	wantFinished(t, s, db, u.ID, want)
	if n := servertest.CountDocuments(t, db.Collection("uploads"), bson.D{}); n != 0 {
		t.Errorf("got %d notes, want none, because wantFinished closes the note", n)
	}
}

// TestResumableWrongDigest proves that nothing remains of a complete upload that does not have the declared digest,
// even if several callers finish it at the same time.
func TestResumableWrongDigest(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(mebi + 5)
	u, err := s.Create(t.Context(), content.Upload{Owner: "ada", SHA256: servertest.SHA256(want[1:]), Length: int64(len(want)), ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	servertest.AddPiece(t, s, u.ID, 0, want)
	var group errgroup.Group
	for range 3 {
		group.Go(func() error {
			if f, err := s.Finish(t.Context(), u.ID, anyEvent); !errors.Is(err, problem.DigestMismatch) && !errors.Is(err, problem.NotFound) {
				return fmt.Errorf("Finish: got file %+v and error %w, want %w or %w", f, err, problem.DigestMismatch, problem.NotFound)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if err := s.Discard(t.Context(), u.ID); err != nil { // sweep discards the note later
		t.Fatal(err)
	}
	wantEmpty(t, db)
}

// TestResumableDiscard proves that Discard deletes an incomplete upload, but refuses to delete an upload that has
// become a file.
func TestResumableDiscard(t *testing.T) {
	s, db := servertest.OpenContent(t, servertest.MongoDB(t).NewDatabase(t))
	want := servertest.RandomBytes(mebi + 5)
	u := servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want[:mebi+1])
	if err := s.Discard(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), u.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Find after Discard: got error %v, want %v", err, problem.NotFound)
	}
	wantEmpty(t, db)
	u = servertest.CreateUpload(t, s, len(want))
	servertest.AddPiece(t, s, u.ID, 0, want)
	for range 2 {
		wantFinished(t, s, db, u.ID, want)
		if err := s.Discard(t.Context(), u.ID); !errors.Is(err, problem.Conflict) {
			t.Errorf("Discard of a file: got error %v, want %v", err, problem.Conflict)
		}
	}
	deleteFile(t, s, u.ID)
	wantEmpty(t, db)
}
