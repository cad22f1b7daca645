//go:build audit

package integration

import (
	"slices"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditFileWithoutMajority checks data A1: Put returns a file only if a majority of the servers has the document of the file.
func TestAuditFileWithoutMajority(t *testing.T) {
	s, err := content.Open(servertest.NullMongoDB(t, servertest.WithoutMajority("insert fs.files")))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := put(t.Context(), s, []byte("hello")); err == nil {
		t.Errorf("got file %s, want an error", f.ID)
	}
}

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

// TestAuditInterruptedCommit checks data A9: Put keeps the chunks of a file whose document was written, although the wait for the majority was interrupted.
func TestAuditInterruptedCommit(t *testing.T) {
	var mu sync.Mutex
	var deleted []string
	s, err := content.Open(servertest.NullMongoDB(t, func(command, collection string) bson.D {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case command == "delete":
			deleted = append(deleted, collection)
		case command == "insert" && collection == "fs.files":
			return bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(1)}, {Key: "writeConcernError", Value: bson.D{
				{Key: "code", Value: int32(11601)}, {Key: "codeName", Value: "Interrupted"}, {Key: "errmsg", Value: "operation was interrupted"}}}}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = put(t.Context(), s, []byte("hello"))
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(deleted, "fs.chunks") {
		t.Errorf("got error %v and the chunks deleted, want the chunks kept", err)
	}
}
