package nullmongo

import (
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// reply returns the response that a MongoDB server without any data would send to a command. documents is the number
// of inserted or deleted documents to report. The response to an unsupported command is an error.
func reply(command, collection string, documents int32) bson.D {
	ok := bson.E{Key: "ok", Value: float64(1)}
	switch strings.ToLower(command) {
	case "hello", "ismaster":
		return bson.D{
			{Key: "helloOk", Value: true},
			{Key: "ismaster", Value: true}, {Key: "isWritablePrimary", Value: true},
			{Key: "maxBsonObjectSize", Value: int32(maxDocument)},
			{Key: "maxMessageSizeBytes", Value: int32(maxMessage)},
			{Key: "maxWriteBatchSize", Value: int32(100_000)},
			{Key: "logicalSessionTimeoutMinutes", Value: int32(30)},
			{Key: "minWireVersion", Value: int32(0)}, {Key: "maxWireVersion", Value: int32(25)}, // same as MongoDB 8.0
			ok,
		}
	case "insert", "delete":
		return bson.D{{Key: "n", Value: documents}, ok}
	case "find", "aggregate", "listindexes":
		return bson.D{
			{Key: "cursor", Value: bson.D{
				{Key: "id", Value: int64(0)}, {Key: "ns", Value: "strongroom." + collection}, {Key: "firstBatch", Value: bson.A{}},
			}},
			ok,
		}
	case "ping", "createindexes", "endsessions":
		return bson.D{ok}
	}
	return bson.D{
		{Key: "ok", Value: float64(0)}, {Key: "code", Value: int32(59)}, {Key: "codeName", Value: "CommandNotFound"},
		{Key: "errmsg", Value: "no such command: " + command[:min(len(command), math.MaxUint8)]},
	}
}
