package servertest

import (
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

// NullMongoDB starts a MongoDB server that stores nothing, and returns the server's URI. The server sends the documents
// that the reply function returns (see nullmongo.Server.Intercept). The server is stopped when the test ends.
func NullMongoDB(t *testing.T, reply func(command, collection string) bson.D) string {
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

// WithoutMajority returns a reply function for NullMongoDB. The function simulates a primary that cannot reach its
// secondaries. It handles only the command and collection in the inserts parameter, such as "insert fs.files".
func WithoutMajority(inserts string) func(command, collection string) bson.D {
	var n atomic.Int32
	return func(command, collection string) bson.D {
		if command+" "+collection != inserts {
			return nil
		}
		reply := bson.D{
			{Key: "ok", Value: 1.0},
			{Key: "writeConcernError", Value: bson.D{{Key: "code", Value: int32(50)}, {Key: "codeName", Value: "MaxTimeMSExpired"}, {Key: "errmsg", Value: "operation exceeded time limit"}}},
		}
		// The first reply reports that the document was written, but not to a majority of the servers.
		if n.Add(1) == 1 {
			return append(reply, bson.E{Key: "n", Value: int32(1)})
		}
		// Later replies report a write concern error and a duplicate key error, as in MongoDB's test
		// jstests/replsets/noop_writes_wait_for_write_concern.js.
		duplicate := bson.D{{Key: "index", Value: int32(0)}, {Key: "code", Value: int32(11000)}, {Key: "errmsg", Value: "E11000 duplicate key error"}}
		return append(reply, bson.E{Key: "n", Value: int32(0)}, bson.E{Key: "writeErrors", Value: bson.A{duplicate}})
	}
}
