//go:build audit

package integration

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

// startNullMongo returns the URI of a server that replies to commands as nullmongo.Server.Intercept describes.
func startNullMongo(t *testing.T, reply func(command, collection string) bson.D) string {
	t.Helper()
	server, err := nullmongo.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	server.Intercept(reply)
	return server.URI()
}

// withoutMajority returns the replies of a primary that the secondaries cannot reach. To the first insert of a document it
// replies that the document is written but that no majority has it. To the second insert it replies that the document is
// there already, and again that no majority has it: MongoDB's jstests/replsets/noop_writes_wait_for_write_concern.js tests
// that a server sends both in one reply.
func withoutMajority(inserts string) func(command, collection string) bson.D {
	var n atomic.Int32
	return func(command, collection string) bson.D {
		if command+" "+collection != inserts {
			return nil
		}
		reply := bson.D{
			{Key: "ok", Value: 1.0},
			{Key: "writeConcernError", Value: bson.D{{Key: "code", Value: int32(50)}, {Key: "codeName", Value: "MaxTimeMSExpired"}, {Key: "errmsg", Value: "operation exceeded time limit"}}},
		}
		if n.Add(1) == 1 {
			return append(reply, bson.E{Key: "n", Value: int32(1)})
		}
		duplicate := bson.D{{Key: "index", Value: int32(0)}, {Key: "code", Value: int32(11000)}, {Key: "errmsg", Value: "E11000 duplicate key error"}}
		return append(reply, bson.E{Key: "n", Value: int32(0)}, bson.E{Key: "writeErrors", Value: bson.A{duplicate}})
	}
}

// TestAuditFileWithoutMajority checks data A1: Put returns a file only if a majority of the servers has the document of the file.
func TestAuditFileWithoutMajority(t *testing.T) {
	s, err := content.Open(startNullMongo(t, withoutMajority("insert fs.files")))
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
	c, err := catalog.Open(startNullMongo(t, withoutMajority("insert catalogue")))
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
	s, err := content.Open(startNullMongo(t, func(command, collection string) bson.D {
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
