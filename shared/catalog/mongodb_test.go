package catalog_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// newCatalog returns a catalog in the database that uri names. It creates the indexes with concurrent calls of
// EnsureIndexes.
func newCatalog(t *testing.T, uri string) *catalog.Store {
	t.Helper()
	db, err := mongodb.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mongodb.Close(db); err != nil {
			t.Error(err)
		}
	})
	s := catalog.New(db)
	var group errgroup.Group
	for range 3 {
		group.Go(func() error { return s.EnsureIndexes(t.Context()) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return s
}

// entry returns a catalog entry for a file that belongs to owner. The file was stored n seconds after a fixed time.
func entry(owner string, n int64) catalog.Entry {
	at := time.Unix(1_800_000_000+n, 123_000_000).UTC()
	return catalog.Entry{Info: file.Info{ID: uuid.Must(uuid.NewV7()).String(), Owner: owner, Name: fmt.Sprint("file Ω ", n), Size: 1 << 40,
		SHA256: servertest.SHA256(nil), ContentType: "text/plain", StoredAt: at}, CataloguedAt: at.Add(time.Millisecond)}
}

// TestCatalogInsert proves that exactly one of several concurrent inserts of the same file reports an insert, and that
// a later insert does not change the entry.
func TestCatalogInsert(t *testing.T) {
	s := newCatalog(t, servertest.MongoDB(t).NewDatabase(t))
	want := entry("ada", 0)
	if _, err := s.Get(t.Context(), want.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get before the insert: got error %v, want %v", err, problem.NotFound)
	}
	results := make([]bool, 20)
	var group errgroup.Group
	for i := range results {
		group.Go(func() (err error) {
			results[i], err = s.Insert(t.Context(), want)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	inserted := 0
	for _, result := range results {
		if result {
			inserted++
		}
	}
	if inserted != 1 {
		t.Errorf("got true from %d of %d calls of Insert, want 1", inserted, len(results))
	}
	again := want
	again.Name = "another"
	if inserted, err := s.Insert(t.Context(), again); inserted || err != nil {
		t.Errorf("Insert of an existing ID: got %t (%v), want false", inserted, err)
	}
	if got, err := s.Get(t.Context(), want.ID); err != nil || got != want {
		t.Errorf("Get: got %+v (%v), want %+v", got, err, want)
	}
}

// pages returns the IDs of all entries that query selects, from pages of at most limit entries. Before each page, it
// calls between.
func pages(t *testing.T, s *catalog.Store, query catalog.Query, between func()) (ids []string) {
	t.Helper()
	for page := 0; ; page++ {
		between()
		entries, next, err := s.List(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if entries == nil || query.Limit > 0 && len(entries) > query.Limit || next != "" && len(entries) != query.Limit {
			t.Fatalf("got a page of %d entries (nil: %t) and the cursor %q, want %d, or fewer on the last page", len(entries), entries == nil, next, query.Limit)
		}
		for _, e := range entries {
			ids = append(ids, e.ID)
		}
		if next == "" {
			return ids
		}
		if page > 100 {
			t.Fatalf("got more than %d pages", page)
		}
		query.Cursor = next
	}
}

// nothing is a function for pages.
func nothing() {}

// unkey removes the keys of an entry, as if the previous version had inserted it.
func unkey(t *testing.T, db *mongo.Database, id string) {
	t.Helper()
	_, err := db.Collection("catalogue").UpdateOne(t.Context(), bson.D{{Key: "_id", Value: id}},
		bson.D{{Key: "$unset", Value: bson.D{{Key: "name_key", Value: ""}, {Key: "words", Value: ""}}}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCatalogList proves that List returns every entry exactly once, in each order and with any page size. Many entries
// have the same time, size or name. They are sorted by their IDs.
func TestCatalogList(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	s := newCatalog(t, uri)
	var all []catalog.Entry
	for n := range int64(24) {
		e := entry([]string{"ada", "grace"}[n%2], 100-n/8) // the order of the IDs is not the order of the times
		e.Size = n / 4 % 3 << 33
		e.Name = []string{"b.txt", "A.txt", "\u00c4.txt", "a.txt", "\U00020000", "\uffee"}[n/2%6]
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	byID := func(a, b catalog.Entry) int { return cmp.Compare(a.ID, b.ID) }
	byDate := func(a, b catalog.Entry) int { return cmp.Or(a.StoredAt.Compare(b.StoredAt), byID(a, b)) }
	bySize := func(a, b catalog.Entry) int { return cmp.Or(cmp.Compare(a.Size, b.Size), byID(a, b)) }
	byName := func(a, b catalog.Entry) int {
		// These names differ only in the case of ASCII letters, U+00C4 and U+FFEE, which NFKC replaces by U+25CB.
		key := strings.NewReplacer("A", "a", "\u00c4", "\u00e4", "\uffee", "\u25cb")
		return cmp.Or(cmp.Compare(key.Replace(a.Name), key.Replace(b.Name)), byID(a, b))
	}
	for _, c := range []struct {
		owner, sort string
		compare     func(a, b catalog.Entry) int
		descending  bool
	}{
		{"", "", byID, true},
		{"", "-date", byID, true},
		{"", "date", byID, false},
		{"ada", "", byDate, true},
		{"ada", "-date", byDate, true},
		{"ada", "date", byDate, false},
		{"ada", "size", bySize, false},
		{"ada", "-size", bySize, true},
		{"ada", "name", byName, false},
		{"ada", "-name", byName, true},
		{"nobody", "", byDate, true},
		{"nobody", "name", byName, false},
	} {
		var want []string
		for _, e := range slices.SortedFunc(slices.Values(all), c.compare) {
			if c.owner == "" || c.owner == e.Owner {
				want = append(want, e.ID)
			}
		}
		if c.descending {
			slices.Reverse(want)
		}
		for _, limit := range []int{1, 2, 5, max(len(want), 1), 100} {
			got := pages(t, s, catalog.Query{Owner: c.owner, Sort: c.sort, Limit: limit}, nothing)
			if !slices.Equal(got, want) {
				t.Errorf("owner %q, sort %q, limit %d: got %d entries %q, want %d entries %q", c.owner, c.sort, limit, len(got), got, len(want), want)
			}
		}
	}
	if got, next, err := s.List(t.Context(), catalog.Query{}); err != nil || len(got) != len(all) || next != "" {
		t.Errorf("no limit: got %d entries, cursor %q and error %v, want %d entries", len(got), next, err, len(all))
	}
	t.Run("a newer entry between two pages", func(t *testing.T) {
		first, next, err := s.List(t.Context(), catalog.Query{Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Insert(t.Context(), entry("ada", 1000)); err != nil {
			t.Fatal(err)
		}
		rest, _, err := s.List(t.Context(), catalog.Query{Limit: 100, Cursor: next})
		if err != nil || len(first)+len(rest) != len(all) || rest[0] != all[len(all)-6] {
			t.Errorf("got %d and %d entries (%v), want %d together", len(first), len(rest), err, len(all))
		}
	})
}

// TestCatalogAddKeysBetweenPages proves that a list that is sorted by name contains all entries even if AddKeys adds
// keys between two pages. The list can then contain an entry twice.
func TestCatalogAddKeysBetweenPages(t *testing.T) {
	for _, sort := range []string{"name", "-name"} {
		for _, added := range []int{0, 1, 3, 100} {
			uri := servertest.MongoDB(t).NewDatabase(t)
			s, db := newCatalog(t, uri), servertest.Database(t, uri)
			var want []string
			for n := range int64(12) {
				e := entry("ada", n)
				e.Name = string(rune('a' + n*7%12))
				if _, err := s.Insert(t.Context(), e); err != nil {
					t.Fatal(err)
				}
				if n%3 > 0 {
					unkey(t, db, e.ID)
				}
				want = append(want, e.ID)
			}
			first := true
			got := pages(t, s, catalog.Query{Owner: "ada", Sort: sort, Limit: 2}, func() {
				if first {
					first = false
				} else if added > 0 {
					if _, err := s.AddKeys(t.Context(), added); err != nil {
						t.Fatal(err)
					}
				}
			})
			slices.Sort(got)
			if added == 0 && len(got) != len(want) {
				t.Errorf("%s: got %d entries, want %d", sort, len(got), len(want))
			}
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("%s, %d keys between two pages: got %d different entries, want %d", sort, added, len(got), len(want))
			}
		}
	}
}

// TestCatalogSearch proves that List finds the entries whose names contain all sought words, or words that begin with
// them, in any order. The results are sorted and have pages. It also finds entries without keys.
func TestCatalogSearch(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, db := newCatalog(t, uri), servertest.Database(t, uri)
	names := []string{
		"Notes \u03a9.txt", "notes.TXT", "a.*b", "100% (1).pdf", "Annual Report 2026 (final).pdf", "annual-report-2025.docx",
		"\uff21\uff22\uff23.doc", "Stra\u00dfe.jpg", "\u6f22\u5b57\U00020000.txt", "\u2764\ufe0f",
	}
	var ids []string
	for i, name := range names {
		e := entry([]string{"ada", "grace"}[i%2], int64(i))
		e.Name = name
		ids = append(ids, e.ID)
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		query catalog.Query
		want  []int // indexes of names
		// exact means that a search returns the same entries if they have no keys.
		exact bool
	}{
		{catalog.Query{Name: "NOTES"}, []int{1, 0}, true},
		{catalog.Query{Name: "not"}, []int{1, 0}, true},
		{catalog.Query{Name: "otes"}, nil, false},
		{catalog.Query{Name: "notes", Owner: "ada"}, []int{0}, true},
		{catalog.Query{Name: "notes txt"}, []int{1, 0}, true},
		{catalog.Query{Name: "tx note"}, []int{1, 0}, true},
		{catalog.Query{Name: "notes.txt"}, []int{1, 0}, true},
		{catalog.Query{Name: "txt notes pdf"}, nil, true},
		{catalog.Query{Name: "\u03a9"}, []int{0}, true},
		{catalog.Query{Name: "\u03c9"}, []int{0}, true},
		{catalog.Query{Name: "a.*"}, []int{6, 5, 4, 2}, false},
		{catalog.Query{Name: "b"}, []int{2}, false},
		{catalog.Query{Name: "% (1)"}, []int{3}, true},
		{catalog.Query{Name: "100", Owner: "ada"}, nil, true},
		{catalog.Query{Name: "2026 report annual"}, []int{4}, true},
		{catalog.Query{Name: "annual report"}, []int{5, 4}, true},
		{catalog.Query{Name: "annual report", Sort: "date"}, []int{4, 5}, true},
		{catalog.Query{Name: "annual report 2026 final pdf"}, []int{4}, true},
		{catalog.Query{Name: "notes", Owner: "ada", Sort: "name"}, []int{0}, true},
		{catalog.Query{Name: "abc"}, []int{6}, false},
		{catalog.Query{Name: "\uff41\uff22"}, []int{6}, false},
		{catalog.Query{Name: "STRASSE"}, []int{7}, false},
		{catalog.Query{Name: "\u6f22"}, []int{8}, true},
		{catalog.Query{Name: "\u6f22\u5b57"}, []int{8}, true}, // the next character is above U+FFFF
		{catalog.Query{Name: strings.Repeat("x", catalog.MaxName)}, nil, true},
	}
	check := func(state string, all bool) {
		t.Helper()
		for _, c := range cases {
			if !all && !c.exact {
				continue
			}
			var want []string
			for _, i := range c.want {
				want = append(want, ids[i])
			}
			for _, limit := range []int{1, 100} {
				c.query.Limit = limit
				if got := pages(t, s, c.query, nothing); !slices.Equal(got, want) {
					t.Errorf("%s: List with %+v: got %q, want %q", state, c.query, got, want)
				}
			}
		}
	}
	check("all entries with keys", true)
	for i, id := range ids {
		if i%2 == 0 {
			unkey(t, db, id)
		}
	}
	check("some entries without keys", false)
	for i, id := range ids {
		if i%2 == 1 {
			unkey(t, db, id)
		}
	}
	check("no entry with keys", false)
	var group errgroup.Group
	for range 3 { // other processes add the same keys
		group.Go(func() error {
			for {
				if n, err := s.AddKeys(t.Context(), 3); err != nil || n == 0 {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	check("with the keys from AddKeys", true)
}

// TestCatalogAddKeys proves that AddKeys adds the keys that Insert inserts, and changes nothing else.
func TestCatalogAddKeys(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	s, db := newCatalog(t, uri), servertest.Database(t, uri)
	dump := func() (documents []bson.M) {
		t.Helper()
		found, err := db.Collection("catalogue").Find(t.Context(), bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
		if err == nil {
			err = found.All(t.Context(), &documents)
		}
		if err != nil {
			t.Fatal(err)
		}
		return documents
	}
	var ids []string
	for i, name := range []string{"Notes 1.txt", "!?", "b"} {
		e := entry("ada", int64(i))
		e.Name = name
		ids = append(ids, e.ID)
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	want := dump()
	for _, id := range ids {
		unkey(t, db, id)
	}
	for _, n := range []int{2, 1, 0} {
		if got, err := s.AddKeys(t.Context(), 2); err != nil || got != n {
			t.Errorf("got %d and error %v, want %d", got, err, n)
		}
	}
	if diff := gocmp.Diff(want, dump()); diff != "" {
		t.Errorf("want (-) and got (+) differ:\n%s", diff)
	}
}

// TestCatalogDelete proves that Delete removes an entry, and that it succeeds if there is no entry.
func TestCatalogDelete(t *testing.T) {
	s := newCatalog(t, servertest.MongoDB(t).NewDatabase(t))
	kept, deleted := entry("ada", 0), entry("ada", 1)
	for _, e := range []catalog.Entry{kept, deleted} {
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Delete(t.Context(), deleted.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get(t.Context(), deleted.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("Get after Delete: got error %v, want %v", err, problem.NotFound)
	}
	if entries, _, err := s.List(t.Context(), catalog.Query{}); err != nil || len(entries) != 1 || entries[0] != kept {
		t.Errorf("List after Delete: got %+v and error %v, want the other entry", entries, err)
	}
}

// TestCatalogIDs proves that IDs returns the IDs of all entries in ascending order, in pages. Missing returns the IDs
// without an entry, in the order of its argument.
func TestCatalogIDs(t *testing.T) {
	s := newCatalog(t, servertest.MongoDB(t).NewDatabase(t))
	var all []string
	for n := range int64(5) {
		e := entry("ada", -n) // the order of the IDs is not the order of the times
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e.ID)
	}
	for name, c := range map[string]struct {
		after string
		limit int
		want  []string
	}{
		"first page":         {"", 2, all[:2]},
		"next page":          {all[1], 2, all[2:4]},
		"last page":          {all[3], 2, all[4:]},
		"after the last":     {all[4], 2, nil},
		"after an absent ID": {all[1] + "~", 2, all[2:4]},
		"no limit":           {"", 0, all},
	} {
		if got, err := s.IDs(t.Context(), c.after, c.limit); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q and error %v, want %q", name, got, err, c.want)
		}
	}
	for name, c := range map[string]struct{ ids, want []string }{
		"no IDs":       {nil, nil},
		"all exist":    {all, nil},
		"none exists":  {[]string{"y", "x"}, []string{"y", "x"}},
		"some of them": {[]string{"y", all[3], "x", all[0]}, []string{"y", "x"}},
	} {
		given := slices.Clone(c.ids)
		if got, err := s.Missing(t.Context(), given); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q and error %v, want %q", name, got, err, c.want)
		}
		if !slices.Equal(given, c.ids) {
			t.Errorf("%s: Missing has changed its argument to %q, want %q", name, given, c.ids)
		}
	}
}

// TestCatalogInsertWithoutMajority proves that Insert fails if it is unknown whether a majority of the servers has the
// entry. Otherwise, the record function would acknowledge the event, and the entry could be lost.
func TestCatalogInsertWithoutMajority(t *testing.T) {
	s := catalog.New(servertest.Database(t, servertest.NullMongoDB(t, servertest.WithoutMajority("insert catalogue"))))
	e := entry("ada", 0)
	for delivery := 1; delivery <= 2; delivery++ { // the second reply reports a duplicate key
		if inserted, err := s.Insert(t.Context(), e); inserted || !errors.Is(err, problem.Unavailable) {
			t.Errorf("delivery %d: got %t and error %v, want false and %v", delivery, inserted, err, problem.Unavailable)
		}
	}
}

// TestCatalogServerUnavailable proves that every call returns problem.Unavailable while MongoDB is down, and that the
// same store works again afterward.
func TestCatalogServerUnavailable(t *testing.T) {
	server := servertest.OwnMongoDB(t)
	s := newCatalog(t, server.NewDatabase(t))
	e := entry("ada", 0)
	if _, err := s.Insert(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	servertest.WantUnavailable(t, map[string]func() error{
		"Insert":        func() error { _, err := s.Insert(t.Context(), e); return err },
		"Get":           func() error { _, err := s.Get(t.Context(), e.ID); return err },
		"List":          func() error { _, _, err := s.List(t.Context(), catalog.Query{}); return err },
		"Delete":        func() error { return s.Delete(t.Context(), e.ID) },
		"AddKeys":       func() error { _, err := s.AddKeys(t.Context(), 1); return err },
		"IDs":           func() error { _, err := s.IDs(t.Context(), "", 1); return err },
		"Missing":       func() error { _, err := s.Missing(t.Context(), []string{e.ID}); return err },
		"EnsureIndexes": func() error { return s.EnsureIndexes(t.Context()) },
	})
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, 20*time.Second, "Get works again", func() error {
		_, err := s.Get(t.Context(), e.ID)
		return err
	})
}
