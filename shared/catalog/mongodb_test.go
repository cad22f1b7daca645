package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
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

// TestCatalogList proves that List returns every entry exactly once, newest first, with any page size. An entry that is
// inserted between two pages does not change the later pages. Invalid limits and cursors are refused.
func TestCatalogList(t *testing.T) {
	s := newCatalog(t, servertest.MongoDB(t).NewDatabase(t))
	var all, adas []catalog.Entry // newest first
	for n := range int64(12) {
		owner := []string{"ada", "grace"}[n%2]
		e := entry(owner, n/4) // several entries have the same time
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all = append([]catalog.Entry{e}, all...)
		if owner == "ada" {
			adas = append([]catalog.Entry{e}, adas...)
		}
	}
	for name, c := range map[string]struct {
		owner string
		want  []catalog.Entry
	}{"all owners": {"", all}, "one owner": {"ada", adas}, "an owner without files": {"nobody", nil}} {
		for _, limit := range []int{0, 1, 2, 5, len(c.want), 100} {
			t.Run(fmt.Sprintf("%s with limit %d", name, limit), func(t *testing.T) {
				var got []catalog.Entry
				query := catalog.Query{Owner: c.owner, Limit: limit}
				for pages := 0; ; pages++ {
					entries, next, err := s.List(t.Context(), query)
					if err != nil {
						t.Fatal(err)
					}
					if entries == nil || limit > 0 && len(entries) > limit {
						t.Fatalf("got the page %v, want a list of at most %d entries", entries, limit)
					}
					got = append(got, entries...)
					if next == "" {
						break
					}
					if pages > len(c.want) {
						t.Fatalf("got more than %d pages for %d entries", pages, len(c.want))
					}
					query.Cursor = next
				}
				if len(got) != len(c.want) {
					t.Fatalf("got %d entries, want %d", len(got), len(c.want))
				}
				for i := range got {
					if got[i] != c.want[i] {
						t.Errorf("entry %d: got %+v, want %+v", i, got[i], c.want[i])
					}
				}
			})
		}
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
		if err != nil || len(first)+len(rest) != len(all) || rest[0] != all[5] {
			t.Errorf("got %d and %d entries (%v), want %d together", len(first), len(rest), err, len(all))
		}
	})
	for _, query := range []catalog.Query{{Limit: -1}, {Limit: 101}, {Cursor: "x"}, {Cursor: "%"}, {Cursor: "MTIz"}, {Cursor: "eC55"}} {
		if _, _, err := s.List(t.Context(), query); !errors.Is(err, problem.BadRequest) {
			t.Errorf("List with %+v: got error %v, want %v", query, err, problem.BadRequest)
		}
	}
}

// TestCatalogSearchAndDelete proves that List finds entries by a part of the name. The search ignores case and does not
// interpret the text as a pattern. Delete removes an entry.
func TestCatalogSearchAndDelete(t *testing.T) {
	s := newCatalog(t, servertest.MongoDB(t).NewDatabase(t))
	ids := map[string]string{}
	for i, name := range []string{"Notes Ω.txt", "notes.TXT", "a.*b", "100% (1).pdf"} {
		e := entry([]string{"ada", "grace"}[i%2], int64(i))
		e.Name = name
		ids[e.ID] = name
		if _, err := s.Insert(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	search := func(q catalog.Query, want ...string) {
		t.Helper()
		entries, _, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("List with %+v: got %q, want %q", q, got, want)
		}
	}
	search(catalog.Query{Name: "NOTES"}, "notes.TXT", "Notes Ω.txt")
	search(catalog.Query{Name: "notes", Owner: "ada"}, "Notes Ω.txt")
	search(catalog.Query{Name: "Ω"}, "Notes Ω.txt")
	search(catalog.Query{Name: ".*"}, "a.*b")
	search(catalog.Query{Name: "% (1)"}, "100% (1).pdf")
	search(catalog.Query{Name: "100", Owner: "ada"})
	for _, name := range []string{strings.Repeat("x", catalog.MaxName+1), "\xff"} {
		if _, _, err := s.List(t.Context(), catalog.Query{Name: name}); !errors.Is(err, problem.BadRequest) {
			t.Errorf("search for %q: got error %v, want %v", name, err, problem.BadRequest)
		}
	}
	for id, name := range ids {
		if name == "a.*b" {
			for range 2 { // a second call is not an error
				if err := s.Delete(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Get(t.Context(), id); !errors.Is(err, problem.NotFound) {
				t.Errorf("Get after Delete: got error %v, want %v", err, problem.NotFound)
			}
		}
	}
	search(catalog.Query{Name: "."}, "100% (1).pdf", "notes.TXT", "Notes Ω.txt")
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
