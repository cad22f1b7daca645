//go:build audit

package catalog_test

import (
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditEntryWithoutMajority checks data A1: Insert succeeds only if a majority of the servers has the entry, because record then acknowledges the event.
func TestAuditEntryWithoutMajority(t *testing.T) {
	c, err := catalog.Open(servertest.NullMongoDB(t, servertest.WithoutMajority("insert catalogue")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e := catalog.Entry{Info: file.Info{ID: "0190a5c2-7b1e-7c3d-9e4f-0123456789ab", Owner: "ada", Name: "x", StoredAt: time.Now()}}
	for delivery := 1; delivery <= 2; delivery++ {
		if _, err := c.Insert(t.Context(), e); err == nil {
			t.Errorf("delivery %d: got no error, want one", delivery)
		}
	}
}
