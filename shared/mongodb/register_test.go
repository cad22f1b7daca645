package mongodb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// names is a value that contains the names that were added to it.
type names struct {
	Names []string `bson:"names"`
}

// adding returns a function for Change that adds a name, unless the value contains it.
func adding(name string) func(context.Context, *names) (*names, error) {
	return func(_ context.Context, n *names) (*names, error) {
		switch {
		case n == nil:
			return &names{[]string{name}}, nil
		case slices.Contains(n.Names, name):
			return nil, nil
		}
		return &names{append(slices.Clone(n.Names), name)}, nil
	}
}

func wantNames(t *testing.T, r *mongodb.Registers[names], key string, want int) {
	t.Helper()
	got, _, err := r.Latest(t.Context(), key)
	if err != nil || got == nil {
		t.Fatalf("Latest of %s: got %v and error %v, want a value", key, got, err)
	}
	slices.Sort(got.Names)
	if distinct := slices.Compact(slices.Clone(got.Names)); len(got.Names) != want || len(distinct) != want {
		t.Errorf("%s: got %d names, %d of them distinct, want %d", key, len(got.Names), len(distinct), want)
	}
}

// TestChange proves that no change of concurrent writers in several processes is lost, and that old versions are
// deleted.
func TestChange(t *testing.T) {
	const processes, writers, changes, most = 3, 4, 10, 32
	collection := servertest.Database(t, servertest.MongoDB(t).NewDatabase(t)).Collection("registers")
	var group sync.WaitGroup
	for p := range processes {
		r := mongodb.NewRegisters[names](collection)
		for w := range writers {
			group.Go(func() {
				for c := range changes {
					for _, key := range []string{"ada", "grace"} {
						if err := r.Change(t.Context(), key, adding(fmt.Sprintf("%d-%d-%d", p, w, c))); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
	}
	group.Wait()
	r := mongodb.NewRegisters[names](collection)
	for _, key := range []string{"ada", "grace"} {
		wantNames(t, r, key, processes*writers*changes)
		if n := servertest.CountDocuments(t, collection, bson.D{{Key: "key", Value: key}}); n > most {
			t.Errorf("%s: got %d versions, want at most %d", key, n, most)
		}
	}
	var keys []string
	for key := ""; ; {
		var err error
		if key, err = r.NextKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if key == "" {
			break
		}
		keys = append(keys, key)
	}
	if !slices.Equal(keys, []string{"ada", "grace"}) {
		t.Errorf("NextKey: got the keys %q, want ada and grace", keys)
	}
}

// TestChangeSuspended proves that a change is not lost if its process is suspended before the insert, and other
// processes meanwhile insert and delete versions with the same number.
func TestChangeSuspended(t *testing.T) {
	for _, others := range []int{1, 15, 40} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			collection := servertest.Database(t, servertest.MongoDB(t).NewDatabase(t)).Collection("registers")
			suspended, other := mongodb.NewRegisters[names](collection), mongodb.NewRegisters[names](collection)
			calls := 0
			err := suspended.Change(t.Context(), "ada", func(ctx context.Context, n *names) (*names, error) {
				if calls++; calls == 1 {
					for i := range others {
						if err := other.Change(ctx, "ada", adding(fmt.Sprint(i))); err != nil {
							t.Error(err)
						}
					}
				}
				return adding("late")(ctx, n)
			})
			if err != nil || calls < 2 {
				t.Errorf("got error %v after %d calls, want none after at least 2", err, calls)
			}
			wantNames(t, suspended, "ada", others+1)
		})
	}
}

// TestChangeNothing proves that Change returns the error of its function, and stores nothing if the function returns
// nil.
func TestChangeNothing(t *testing.T) {
	collection := servertest.Database(t, servertest.MongoDB(t).NewDatabase(t)).Collection("registers")
	r := mongodb.NewRegisters[names](collection)
	refused := errors.New("refused")
	for _, want := range []error{nil, refused} {
		if err := r.Change(t.Context(), "ada", func(context.Context, *names) (*names, error) { return nil, want }); !errors.Is(err, want) {
			t.Errorf("got error %v, want %v", err, want)
		}
	}
	if n := servertest.CountDocuments(t, collection, bson.D{}); n != 0 {
		t.Errorf("got %d versions, want none", n)
	}
	if value, number, err := r.Latest(t.Context(), "ada"); value != nil || number != 0 || err != nil {
		t.Errorf("Latest: got %v, %d and error %v, want none", value, number, err)
	}
}
