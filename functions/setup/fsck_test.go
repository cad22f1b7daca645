package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/outbox"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestMain stops the servers that the tests have started.
func TestMain(m *testing.M) { servertest.Main(m) }

// stores is the file store and the catalog in a new database.
type stores struct {
	*testing.T
	cfg     config
	files   *content.Store
	entries *catalog.Store
	db      *mongo.Database
}

func newStores(t *testing.T) *stores {
	t.Helper()
	s := &stores{T: t, cfg: config{
		MongoURI: function.Secret(servertest.MongoDB(t).NewDatabase(t)), PolicySettings: password.PolicySettings{MinLength: 12}}}
	s.files, s.db = servertest.OpenContent(t, string(s.cfg.MongoURI))
	s.entries = catalog.New(s.files.Database())
	return s
}

// must ends the test if err is not nil.
func (s *stores) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// put stores a file, which has a note but no catalog entry.
func (s *stores) put(b string) content.File {
	s.Helper()
	info := file.Info{Owner: "ada", Name: "x", ContentType: "text/plain"}
	f, err := s.files.Put(s.Context(), content.File{Info: info}, strings.NewReader(b),
		func(f *content.File) ([]byte, error) { return events.Encode(s.Context(), f.Info) })
	s.must(err)
	return f
}

// forgotten stores a file that has neither a catalog entry nor a note.
func (s *stores) forgotten(b string) content.File {
	s.Helper()
	f := s.put(b)
	s.must(s.files.CloseNote(s.Context(), f.ID))
	return f
}

// enter adds a catalog entry.
func (s *stores) enter(f file.Info) {
	s.Helper()
	_, err := s.entries.Insert(s.Context(), catalog.Entry{Info: f})
	s.must(err)
}

// cataloged stores a file that has a catalog entry and no note.
func (s *stores) cataloged(b string) content.File {
	s.Helper()
	f := s.forgotten(b)
	s.enter(f.Info)
	return f
}

// insert inserts documents directly into a collection.
func (s *stores) insert(collection string, documents ...bson.D) {
	s.Helper()
	_, err := s.db.Collection(collection).InsertMany(s.Context(), documents)
	s.must(err)
}

// chunk inserts a chunk of a file that might not exist.
func (s *stores) chunk(id any) {
	s.Helper()
	s.insert("fs.chunks", bson.D{{Key: "files_id", Value: id}, {Key: "n", Value: int32(0)}, {Key: "data", Value: []byte("x")}})
}

// journal inserts two entries of the journal of an upload that might not exist.
func (s *stores) journal(id string) {
	s.Helper()
	for offset := range 2 {
		s.insert("uploads.journal", bson.D{{Key: "_id", Value: fmt.Sprintf("%s/%020d", id, offset)},
			{Key: "offset", Value: int64(offset)}, {Key: "length", Value: int64(1)}})
	}
}

// document returns the document of an empty file.
func document(id string) bson.D {
	return bson.D{{Key: "_id", Value: id}, {Key: "length", Value: int64(0)}, {Key: "chunkSize", Value: int32(1 << 20)},
		{Key: "uploadDate", Value: time.UnixMilli(1_800_000_000_000)}, {Key: "filename", Value: "x"},
		{Key: "metadata", Value: bson.D{{Key: "owner", Value: "ada"}}}}
}

// tombstone returns the document of a deleted file.
func tombstone(id string) bson.D {
	ended := bson.D{{Key: "ended_at", Value: time.UnixMilli(1_800_000_000_000)}}
	return append(document(id)[:5], bson.E{Key: "metadata", Value: ended})
}

// idOf returns a new ID of an upload that began before the given time.
func idOf(age time.Duration) string {
	id := uuid.Must(uuid.NewV7())
	var milliseconds [8]byte
	binary.BigEndian.PutUint64(milliseconds[:], uint64(time.Now().Add(-age).UnixMilli()))
	copy(id[:6], milliseconds[2:])
	return id.String()
}

// count returns the number of documents in a collection that match filter.
func (s *stores) count(collection string, filter bson.D) int64 {
	s.Helper()
	return servertest.CountDocuments(s.T, s.db.Collection(collection), filter)
}

// dump returns all documents in the database as text.
func (s *stores) dump() string {
	s.Helper()
	var lines []string
	for _, name := range []string{
		"fs.files", "fs.chunks", "uploads", "uploads.journal", "uploads.claims", "deletions", "deletions.tombstones",
		"catalogue", "upgrades",
	} {
		found, err := s.db.Collection(name).Find(s.Context(), bson.D{})
		s.must(err)
		var documents []bson.Raw
		s.must(found.All(s.Context(), &documents))
		for _, d := range documents {
			lines = append(lines, name+" "+d.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// fsck runs the command fsck and returns its output.
func (s *stores) fsck(repair bool) (string, error) {
	s.Helper()
	var out strings.Builder
	err := fsck(s.Context(), s.cfg, repair, &out)
	return out.String(), err
}

// healthy adds data that is not damaged.
func (s *stores) healthy() {
	s.Helper()
	s.cataloged("x")
	s.put("x")
	deleted := s.cataloged("x")
	incomplete := s.cataloged("x")
	for _, f := range []content.File{deleted, incomplete} {
		s.must(errors.Join(s.files.MarkDeleted(s.Context(), f.ID), s.entries.Delete(s.Context(), f.ID)))
	}
	s.must(s.files.Delete(s.Context(), deleted.ID))
	u := servertest.CreateUpload(s.T, s.files, 10)
	servertest.AddPiece(s.T, s.files, u.ID, 0, []byte("x"))
}

// TestFsckDamage proves for each kind of damage that fsck reports it and changes nothing, that fsck --repair repairs
// it, and that fsck finds nothing afterward.
func TestFsckDamage(t *testing.T) {
	wantNote := func(s *stores, f content.File) {
		note, err := s.files.Notes.Note(s.Context(), f.ID)
		if err != nil || note == nil || note.Owner != "ada" || note.Length != f.Size || note.IsStored || !note.DueAt.Equal(f.StoredAt) {
			s.Errorf("got note %+v and error %v, want a note that is due", note, err)
		}
	}
	wantNone := func(s *stores, collection, field, id string) {
		begins := bson.D{{Key: field, Value: bson.D{{Key: "$gte", Value: id}, {Key: "$lt", Value: id + "~"}}}}
		if n := s.count(collection, begins); n != 0 {
			s.Errorf("got %d documents in %s, want none", n, collection)
		}
	}
	wantEntry := func(s *stores, id string, want int64) {
		if n := s.count("catalogue", bson.D{{Key: "_id", Value: id}}); n != want {
			s.Errorf("got %d catalog entries, want %d", n, want)
		}
	}
	for name, damage := range map[string]func(s *stores) (id, want string, check func()){
		"file without entry and note": func(s *stores) (string, string, func()) {
			f := s.forgotten("hello")
			return f.ID, "the file has no catalog entry, and no note", func() { wantNote(s, f) }
		},
		"entry without file": func(s *stores) (string, string, func()) {
			id := idOf(0)
			s.enter(file.Info{ID: id, Owner: "ada"})
			return id, "the catalog entry has no file", func() { wantEntry(s, id, 0) }
		},
		"entry of a deleted file": func(s *stores) (string, string, func()) {
			f := s.cataloged("x")
			s.must(errors.Join(s.files.MarkDeleted(s.Context(), f.ID), s.files.Delete(s.Context(), f.ID)))
			return f.ID, "the catalog entry has no file", func() { wantEntry(s, f.ID, 0) }
		},
		"stray chunks": func(s *stores) (string, string, func()) {
			id := idOf(25 * time.Hour)
			s.chunk(id)
			return id, "the chunks belong to no file and to no upload", func() { wantNone(s, "fs.chunks", "files_id", id) }
		},
		"stray chunks of a deleted file": func(s *stores) (string, string, func()) {
			id := idOf(25 * time.Hour)
			s.insert("fs.files", tombstone(id))
			s.chunk(id)
			return id, "the chunks belong to no file and to no upload", func() { wantNone(s, "fs.chunks", "files_id", id) }
		},
		"stray journal": func(s *stores) (string, string, func()) {
			id := idOf(25 * time.Hour)
			s.journal(id)
			return id, "the journal belongs to no upload", func() { wantNone(s, "uploads.journal", "_id", id) }
		},
		"file that the usage does not contain": func(s *stores) (string, string, func()) {
			id := idOf(25 * time.Hour)
			s.insert("fs.files", document(id))
			s.enter(file.Info{ID: id, Owner: "ada"})
			return "ada", "the recorded usage of this user is wrong", func() {
				if ok, err := s.files.IsUsageCorrect(s.Context(), "ada"); !ok || err != nil {
					s.Errorf("IsUsageCorrect: got %t and error %v, want true", ok, err)
				}
			}
		},
		"stray journal of a file": func(s *stores) (string, string, func()) {
			id := idOf(25 * time.Hour)
			s.insert("fs.files", document(id))
			s.enter(file.Info{ID: id, Owner: "ada"})
			s.must(s.files.Recount(s.Context(), "ada"))
			s.journal(id)
			return id, "the journal belongs to no upload", func() {
				wantNone(s, "uploads.journal", "_id", id)
				if _, err := s.files.Get(s.Context(), id); err != nil {
					s.Errorf("Get: got error %v, want the file", err)
				}
				wantEntry(s, id, 1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStores(t)
			s.healthy()
			id, want, check := damage(s)
			want = id + ": " + want + "\nproblems: 1\n"
			before := s.dump()
			if out, err := s.fsck(false); !errors.Is(err, errFound) || out != want {
				t.Errorf("fsck: got %q and error %v, want %q and %v", out, err, want, errFound)
			}
			if after := s.dump(); after != before {
				t.Errorf("fsck: got the documents\n%s\nwant\n%s", after, before)
			}
			if out, err := s.fsck(true); err != nil || out != want {
				t.Errorf("fsck --repair: got %q and error %v, want %q", out, err, want)
			}
			check()
			if out, err := s.fsck(false); err != nil || out != "problems: 0\n" {
				t.Errorf("second fsck: got %q and error %v, want no problems", out, err)
			}
		})
	}
}

// TestFsckSkips proves that fsck --repair neither reports nor changes data that can belong to an upload in progress, or
// to another program.
func TestFsckSkips(t *testing.T) {
	for name, add := range map[string]func(s *stores){
		"nothing": func(*stores) {},
		"young strays": func(s *stores) {
			for _, age := range []time.Duration{0, 23 * time.Hour} {
				id := idOf(age)
				s.chunk(id)
				s.journal(id)
			}
		},
		"old upload": func(s *stores) {
			id, expires := idOf(72*time.Hour), time.Now()
			s.must(s.files.Notes.Add(s.Context(), outbox.Note{ID: id, Owner: "ada", ExpiresAt: &expires, Tus: &outbox.Tus{}}))
			s.chunk(id)
			s.journal(id)
		},
		"old deletion": func(s *stores) {
			id := idOf(72 * time.Hour)
			s.must(s.files.MarkDeleted(s.Context(), id))
			s.chunk(id)
			s.journal(id)
		},
		"files of other programs": func(s *stores) {
			_, err := s.db.GridFSBucket().UploadFromStream(s.Context(), "photo.jpg", strings.NewReader("x"))
			s.must(err)
			old := idOf(72 * time.Hour)
			for _, id := range []string{"photo.jpg", uuid.NewString(), strings.ToUpper(old), "urn:uuid:" + old} {
				s.must(s.db.GridFSBucket().UploadFromStreamWithID(s.Context(), id, id, strings.NewReader("x")))
			}
		},
		"chunks of other programs": func(s *stores) {
			for _, id := range []any{bson.NewObjectID(), "photo.jpg", uuid.NewString(), int32(1)} {
				s.chunk(id)
			}
		},
		"only deleted files": func(s *stores) {
			s.must(s.db.Collection("fs.files").Drop(s.Context()))
			s.must(s.db.Collection("catalogue").Drop(s.Context()))
			s.insert("fs.files", tombstone(idOf(time.Hour)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStores(t)
			if name != "only deleted files" {
				s.healthy()
			}
			add(s)
			before := s.dump()
			for _, repair := range []bool{false, true} {
				if out, err := s.fsck(repair); err != nil || out != "problems: 0\n" {
					t.Errorf("repair %t: got %q and error %v, want no problems", repair, out, err)
				}
			}
			if after := s.dump(); after != before {
				t.Errorf("got the documents\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// TestFsckInPages proves that fsck finds the problems behind a full page of documents, also if the page contains only
// deleted files, or only chunks or journal entries with the same ID.
func TestFsckInPages(t *testing.T) {
	s := newStores(t)
	large := idOf(50 * time.Hour)
	var deleted, chunks, entries, pieces []bson.D
	for n := range idsAtOnce + 1 {
		deleted = append(deleted, tombstone(idOf(50*time.Hour)))
		chunks = append(chunks, bson.D{{Key: "files_id", Value: large}, {Key: "n", Value: int32(n)}})
		entries = append(entries, bson.D{{Key: "_id", Value: idOf(50 * time.Hour)}})
		pieces = append(pieces, bson.D{{Key: "_id", Value: fmt.Sprintf("%s/%020d", large, n)}})
	}
	s.insert("fs.files", append(deleted, document(idOf(25*time.Hour)))...)
	s.insert("fs.chunks", chunks...)
	s.insert("catalogue", entries...)
	s.insert("uploads.journal", pieces...)
	s.chunk(idOf(25 * time.Hour))
	s.journal(idOf(25 * time.Hour))
	// The repair of the chunks also deletes the journal with the same ID.
	for _, c := range []struct {
		repair bool
		want   int
	}{{false, 1 + len(entries) + 2 + 2}, {true, 1 + len(entries) + 2 + 1}} {
		want := fmt.Sprintf("problems: %d\n", c.want)
		if out, err := s.fsck(c.repair); errors.Is(err, errFound) == c.repair || !strings.HasSuffix(out, want) {
			t.Errorf("repair %t: got %q and error %v, want %q at the end", c.repair, out[max(0, len(out)-200):], err, want)
		}
	}
	if out, err := s.fsck(false); err != nil || out != "problems: 0\n" {
		t.Errorf("second fsck: got %.200q and error %v, want no problems", out, err)
	}
}

// TestScrub proves that scrub reads all files after the given ID, and reports those whose bytes are changed or missing.
func TestScrub(t *testing.T) {
	s := newStores(t)
	scrub := func(after string) (string, error) {
		t.Helper()
		var out strings.Builder
		err := scrub(t.Context(), s.cfg, after, &out)
		return out.String(), err
	}
	if out, err := scrub(""); err != nil || out != "files: 0\ncorrupt: 0\n" {
		t.Errorf("no files: got %q and error %v, want no files", out, err)
	}
	var ids []string
	for _, size := range []int{0, 1, 1<<20 + 5, 1<<20 + 5, 1<<20 + 5, 1 << 20} {
		ids = append(ids, s.cataloged(string(servertest.RandomBytes(size))).ID)
	}
	deleted := s.cataloged("x")
	s.must(errors.Join(s.files.MarkDeleted(t.Context(), deleted.ID), s.files.Delete(t.Context(), deleted.ID)))
	s.must(s.db.GridFSBucket().UploadFromStreamWithID(t.Context(), "photo.jpg", "photo.jpg", strings.NewReader("x")))
	if out, err := scrub(""); err != nil || out != "files: 6\ncorrupt: 0\n" {
		t.Errorf("no corrupt file: got %q and error %v, want 6 files", out, err)
	}
	chunks := s.db.Collection("fs.chunks")
	changed := servertest.RandomBytes(1<<20 + 5)[:1<<20]
	changed[7]++
	_, err := chunks.UpdateOne(t.Context(), bson.D{{Key: "files_id", Value: ids[2]}, {Key: "n", Value: 0}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: changed}}}})
	s.must(err)
	_, err = chunks.DeleteOne(t.Context(), bson.D{{Key: "files_id", Value: ids[4]}, {Key: "n", Value: 1}})
	s.must(err)
	before := s.dump()
	for _, c := range []struct {
		after, want string
		corrupt     []string
	}{
		{"", "files: 6\ncorrupt: 2\n", []string{ids[2], ids[4]}},
		{ids[1], "files: 4\ncorrupt: 2\n", []string{ids[2], ids[4]}},
		{ids[2], "files: 3\ncorrupt: 1\n", []string{ids[4]}},
		{ids[4], "files: 1\ncorrupt: 0\n", nil},
	} {
		out, err := scrub(c.after)
		lines := strings.Split(out, "\n")
		var corrupt []string
		for _, line := range lines[:max(0, len(lines)-3)] {
			id, reason, _ := strings.Cut(line, ": ")
			if corrupt = append(corrupt, id); !strings.Contains(reason, "is corrupt") {
				t.Errorf("got line %q, want the reason", line)
			}
		}
		wantErr := len(c.corrupt) > 0
		if errors.Is(err, errFound) != wantErr || !slices.Equal(corrupt, c.corrupt) || !strings.HasSuffix(out, c.want) {
			t.Errorf("after %q: got %q and error %v, want %q and the corrupt files %q", c.after, out, err, c.want, c.corrupt)
		}
	}
	if after := s.dump(); after != before {
		t.Error("scrub has changed documents")
	}
}

// wantNotes checks that notes exist for exactly the given files.
func (s *stores) wantNotes(want ...string) {
	s.Helper()
	found, err := s.db.Collection("uploads").Find(s.Context(), bson.D{})
	s.must(err)
	var notes []outbox.Note
	s.must(found.All(s.Context(), &notes))
	var got []string
	for _, n := range notes {
		got = append(got, n.ID)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("got notes of the files %.200q, want %.200q", got, want)
	}
}

// TestUpgrade proves that the first setup adds a note for each file that has neither a catalog entry nor a note, and
// that later runs add none.
func TestUpgrade(t *testing.T) {
	s := newStores(t)
	s.cataloged("x")
	noted := s.put("x")
	both := s.put("x")
	s.enter(both.Info)
	forgotten := s.forgotten("hello")
	s.insert("fs.files", tombstone(idOf(time.Hour)))
	s.must(s.db.GridFSBucket().UploadFromStreamWithID(t.Context(), "photo.jpg", "photo.jpg", strings.NewReader("x")))
	s.must(setUpMongoDB(t.Context(), s.cfg))
	s.wantNotes(noted.ID, both.ID, forgotten.ID)
	note, err := s.files.Notes.Note(t.Context(), forgotten.ID)
	if err != nil || note == nil || note.Owner != "ada" || note.Length != 5 || !note.DueAt.Equal(forgotten.StoredAt) {
		t.Errorf("got note %+v and error %v, want a note that is due", note, err)
	}
	later := s.forgotten("x")
	s.must(setUpMongoDB(t.Context(), s.cfg))
	s.wantNotes(noted.ID, both.ID, forgotten.ID)
	if _, done, err := s.files.Upgrade(t.Context()); err != nil || !done {
		t.Errorf("Upgrade: got %t and error %v, want true, although file %s has no note", done, err, later.ID)
	}
}

// TestUpgradeOfEntries proves that setup adds the keys to all entries that the previous version inserted.
func TestUpgradeOfEntries(t *testing.T) {
	s := newStores(t)
	var entries []bson.D
	for range keysAtOnce + 1 {
		entries = append(entries, bson.D{{Key: "_id", Value: idOf(0)}, {Key: "owner", Value: "ada"}, {Key: "name", Value: "Notes 1.txt"}})
	}
	s.insert("catalogue", entries...)
	s.must(setUpMongoDB(t.Context(), s.cfg))
	keys := bson.D{{Key: "name_key", Value: "notes 1.txt"}, {Key: "words", Value: bson.A{"notes", "1", "txt"}}}
	if got, want := s.count("catalogue", keys), int64(len(entries)); got != want {
		t.Errorf("got %d entries with keys, want %d", got, want)
	}
}

// TestUpgradeOfEmptyStore proves that the upgrade of a store without files is done.
func TestUpgradeOfEmptyStore(t *testing.T) {
	s := newStores(t)
	s.must(setUpMongoDB(t.Context(), s.cfg))
	if _, done, err := s.files.Upgrade(t.Context()); err != nil || !done {
		t.Errorf("Upgrade: got %t and error %v, want true", done, err)
	}
}

// TestUpgradeInterrupted proves that an upgrade that fails continues with the page of files at which it has failed. It
// skips no file of that page, and does not repeat the pages before.
func TestUpgradeInterrupted(t *testing.T) {
	s := newStores(t)
	var files []bson.D
	for range idsAtOnce + 10 {
		files = append(files, document(idOf(0)))
	}
	slices.SortFunc(files, func(a, b bson.D) int { return cmp.Compare(a[0].Value.(string), b[0].Value.(string)) })
	id := func(n int) string { return files[n][0].Value.(string) }
	s.insert("fs.files", files...)
	setLength := func(n int, length int64) {
		t.Helper()
		_, err := s.db.Collection("fs.files").UpdateOne(t.Context(), bson.D{{Key: "_id", Value: id(n)}},
			bson.D{{Key: "$set", Value: bson.D{{Key: "length", Value: length}}}})
		s.must(err)
	}
	broken := idsAtOnce + 5
	setLength(broken, -1)
	if err := upgrade(t.Context(), s.cfg); err == nil || !strings.Contains(err.Error(), id(broken)) {
		t.Fatalf("got error %v, want one that names file %s", err, id(broken))
	}
	if after, done, err := s.files.Upgrade(t.Context()); err != nil || done || after != id(idsAtOnce-1) {
		t.Errorf("Upgrade: got %q, %t and error %v, want %q, which is the end of the first page", after, done, err, id(idsAtOnce-1))
	}
	setLength(broken, 0)
	s.must(s.files.Notes.Remove(t.Context(), id(0))) // record has added the entry and has closed the note
	s.must(upgrade(t.Context(), s.cfg))
	var want []string
	for n := range files[1:] {
		want = append(want, id(n+1))
	}
	s.wantNotes(want...)
	if _, done, err := s.files.Upgrade(t.Context()); err != nil || !done {
		t.Errorf("Upgrade: got %t and error %v, want true", done, err)
	}
}
