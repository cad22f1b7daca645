package servertest

import (
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/bench/nullmongo"
)

// NullMongoDB starts a MongoDB server that stores nothing, stops it when the test ends, and returns its URI. The
// function reply is called as nullmongo.Server.Intercept describes.
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

// WithoutMajority returns a reply function for NullMongoDB. inserts is the command to which the function replies as a
// primary that cannot reach the secondaries, such as "insert fs.files". The first reply is that the document is
// written, but that no majority has it. Each later reply is that the document already exists, and again that no
// majority has it. A real server sends both in one reply, as MongoDB's test
// jstests/replsets/noop_writes_wait_for_write_concern.js proves.
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
		if n.Add(1) == 1 {
			return append(reply, bson.E{Key: "n", Value: int32(1)})
		}
		duplicate := bson.D{{Key: "index", Value: int32(0)}, {Key: "code", Value: int32(11000)}, {Key: "errmsg", Value: "E11000 duplicate key error"}}
		return append(reply, bson.E{Key: "n", Value: int32(0)}, bson.E{Key: "writeErrors", Value: bson.A{duplicate}})
	}
}
