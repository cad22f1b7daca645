package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

const (
	perUser     = 1000                            // files of each new user
	largeShare  = 10                              // one of this number of files belongs to the user largeUser
	vocabulary  = 1000                            // number of different words in the names of the files
	fillInserts = 4                               // concurrent inserts
	fillBatch   = 1000                            // documents of one insert
	fillTimeout = time.Minute                     // time limit of one insert
	textTime    = "2006-01-02T15:04:05.000Z07:00" // the form of a time in an event
)

// fileCollections contains the collections that have a document of each file that has its catalog entry.
var fileCollections = []string{"fs.files", "fs.chunks", "catalogue"}

// sample is a file with its documents, by collection.
type sample struct {
	file.Info
	documents map[string]bson.Raw
}

// word returns the word in the name of file i by which the searches find the file.
func word(i int) string { return fmt.Sprintf("w%03d", i%vocabulary) }

// number returns the word in the name of file i that no other file has.
func number(i int) string { return fmt.Sprintf("%08d", i) }

// userID returns the ID of user n. User 0 is largeUser.
func userID(n int) string { return fmt.Sprintf("01900000-0000-7000-8000-%012d", n) }

const largeUser = 0

// newSample stores file i with the packages content and catalog, and returns the documents that they insert.
func newSample(t *testing.T, i int, owner string) sample {
	s := sample{documents: map[string]bson.Raw{}}
	var mu sync.Mutex
	null, err := nullmongo.Start(func(collection string, document bson.Raw) {
		mu.Lock()
		defer mu.Unlock()
		s.documents[collection] = slices.Clone(document)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files, err := content.Open(null.URI())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	entries := catalog.New(files.Database())
	for {
		info := file.Info{Owner: owner, Name: "report-" + word(i) + "-" + number(i) + ".txt", ContentType: "text/plain", Size: -1}
		stored, err := files.Put(t.Context(), content.File{Info: info}, strings.NewReader("the content of a file"), func(f *content.File) ([]byte, error) {
			return events.Encode(t.Context(), f.Info)
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Info = stored.Info
		if s.StoredAt.UnixMilli()%10 != 0 { // otherwise, the text of the time in the event would be shorter
			break
		}
	}
	if _, err := entries.Insert(t.Context(), catalog.Entry{Info: s.Info, CataloguedAt: s.StoredAt}); err != nil {
		t.Fatal(err)
	}
	delete(s.documents, "uploads") // the note, which the record function deletes
	for collection := range s.documents {
		if !slices.Contains(fileCollections, collection) {
			t.Fatalf("an upload inserts a document into %s, which the samples do not have", collection)
		}
	}
	return s
}

// document returns the document of another file in a collection. i is the number of s.
func (s sample) document(collection string, i int, other file.Info, j int) bson.Raw {
	from, to := uuid.MustParse(s.ID), uuid.MustParse(other.ID)
	document := slices.Clone(s.documents[collection])
	for _, change := range [][2][]byte{
		{[]byte(s.ID), []byte(other.ID)},
		{from[7:], to[7:]}, // the _id of a chunk has a part of the file ID
		{[]byte(s.Owner), []byte(other.Owner)},
		{[]byte(word(i)), []byte(word(j))},
		{[]byte(number(i)), []byte(number(j))},
		{[]byte(s.StoredAt.Format(textTime)), []byte(other.StoredAt.Format(textTime))},
		{dateTime(s.StoredAt), dateTime(other.StoredAt)},
	} {
		document = bytes.ReplaceAll(document, change[0], change[1])
	}
	return document
}

// dateTime returns the bytes of a time in a BSON document.
func dateTime(t time.Time) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(t.UnixMilli()))
}

// filler inserts files without the cost of uploading them.
type filler struct {
	db      *mongo.Database
	sample  sample
	random  *rand.ChaCha8
	began   time.Time
	files   int // the number of files
	entries int // the number of catalog entries
}

// sampleNumber is the number of the file from which a filler creates the documents of other files.
const sampleNumber = 12_345_678

// newFiller returns a filler for an empty database. It checks that the documents that it creates are equal to those
// that the packages content and catalog insert.
func newFiller(t *testing.T, db *mongo.Database) *filler {
	f := &filler{db: db, sample: newSample(t, sampleNumber, userID(1)), random: rand.NewChaCha8([32]byte{}), began: time.Now().Add(-24 * time.Hour)}
	const j = 87_654_321
	want := newSample(t, j, userID(2))
	for _, collection := range fileCollections {
		if got := f.sample.document(collection, sampleNumber, want.Info, j); !bytes.Equal(got, want.documents[collection]) {
			t.Fatalf("the document of a file in %s: got %v, want %v", collection, got, want.documents[collection])
		}
	}
	return f
}

// fill inserts files until there are n files, or only catalog entries until there are n entries.
func (f *filler) fill(ctx context.Context, n int, onlyEntries bool) error {
	collections, have := fileCollections, &f.files
	if onlyEntries {
		collections, have = []string{"catalogue"}, &f.entries
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillInserts)
	for *have < n && ctx.Err() == nil {
		batch := min(fillBatch, n-*have)
		documents := map[string][]any{}
		for i := *have; i < *have+batch; i++ {
			other := f.info(i, n)
			for _, collection := range collections {
				documents[collection] = append(documents[collection], f.sample.document(collection, sampleNumber, other, i))
			}
		}
		for collection, documents := range documents {
			group.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, fillTimeout)
				defer cancel()
				_, err := f.db.Collection(collection).InsertMany(ctx, documents, options.InsertMany().SetOrdered(false))
				if err != nil {
					err = fmt.Errorf("insert documents into %s: %w", collection, err)
				}
				return err
			})
		}
		*have += batch
		f.entries = max(f.entries, *have)
	}
	return group.Wait()
}

// info returns the attributes of file i, which is inserted to reach n files. Each user except largeUser has about
// perUser files. The files of one user are not next to each other in the store.
func (f *filler) info(i, n int) file.Info {
	owner := userID(largeUser)
	if i%largeShare != 0 {
		// The files that are inserted to reach n files belong to the users after user n/10/perUser.
		first := n / 10 / perUser
		owner = userID(1 + first + i/largeShare%max(1, n/perUser-first))
	}
	at := f.began.Add(time.Duration(i) * time.Millisecond).Truncate(10 * time.Millisecond).Add(time.Millisecond).UTC()
	var id uuid.UUID
	_, _ = f.random.Read(id[:]) // never returns an error
	binary.BigEndian.PutUint64(id[:], uint64(at.UnixMilli())<<16|uint64(id[6])<<8|uint64(id[7]))
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80 // version 7, variant 10
	return file.Info{ID: id.String(), Owner: owner, StoredAt: at}
}

// someUser returns the ID of a user who is not largeUser, if there are n files. It returns another user for each run.
func someUser(n, run int) string {
	const step = 7919 // a prime number
	if n < 2*perUser {
		return userID(1)
	}
	return userID(2 + run*step%(n/perUser-1))
}
