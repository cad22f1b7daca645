//go:build audit

package catalog

import (
	"errors"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// TestAuditNULInSearch checks security S16, data D2: a search for a name with a NUL is a bad request, and not an outage of the store.
func TestAuditNULInSearch(t *testing.T) {
	db, err := mongodb.Open("mongodb://127.0.0.1:1/strongroom?serverSelectionTimeoutMS=200") // List refuses the name before it connects
	if err != nil {
		t.Fatal(err)
	}
	defer mongodb.Close(db)
	s := New(db)
	for _, name := range []string{"\x00", "a\x00b"} {
		if _, _, err := s.List(t.Context(), Query{Name: name}); !errors.Is(err, problem.BadRequest) {
			t.Errorf("%q: got error %v, want %v", name, err, problem.BadRequest)
		}
	}
}
