package mongodb_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// The outcomes of a write.
const (
	done    = "done"
	exists  = "exists"
	notDone = "not done"
	unknown = "unknown"
)

// outcome returns the outcome of a write that has returned err.
func outcome(err error) string {
	switch {
	case err == nil:
		return done
	case errors.Is(err, mongodb.ErrUnknown):
		return unknown
	case errors.Is(err, mongodb.ErrExists):
		return exists
	}
	return notDone
}

// reply returns a server's reply to a write, with the given members added.
func reply(members ...bson.E) bson.D {
	return append(bson.D{{Key: "ok", Value: 1.0}, {Key: "n", Value: int32(1)}}, members...)
}

// failure returns a description of an error with the given code.
func failure(code int) bson.D {
	return bson.D{{Key: "code", Value: int32(code)}, {Key: "errmsg", Value: "the write failed"}}
}

// writeError returns the member of a reply that reports that a document was not written.
func writeError(code int) bson.E {
	return bson.E{Key: "writeErrors", Value: bson.A{append(bson.D{{Key: "index", Value: int32(0)}}, failure(code)...)}}
}

// concernError returns the member of a reply that reports that it is unknown whether a majority has the write.
func concernError(code int) bson.E {
	return bson.E{Key: "writeConcernError", Value: failure(code)}
}

// commandError returns a reply that reports that the command failed.
func commandError(code int) bson.D {
	return append(bson.D{{Key: "ok", Value: 0.0}}, failure(code)...)
}

// writes contains a call of each function that writes documents.
var writes = map[string]func(ctx context.Context, c *mongo.Collection) error{
	"Insert": func(ctx context.Context, c *mongo.Collection) error {
		return mongodb.Insert(ctx, c, mongodb.CallTimeout, mongodb.ID("x"), "insert x")
	},
	"Update": func(ctx context.Context, c *mongo.Collection) error {
		return mongodb.Update(ctx, c, mongodb.CallTimeout, mongodb.ID("x"), set)
	},
	"UpdateAll": func(ctx context.Context, c *mongo.Collection) error {
		return mongodb.UpdateAll(ctx, c, mongodb.ID("x"), set)
	},
	"Put": func(ctx context.Context, c *mongo.Collection) error { return mongodb.Put(ctx, c, "x", mongodb.ID("x")) },
	"Remove": func(ctx context.Context, c *mongo.Collection) error {
		_, err := mongodb.Remove(ctx, c, mongodb.ID("x"))
		return err
	},
	"RemoveAll": func(ctx context.Context, c *mongo.Collection) error {
		_, err := mongodb.RemoveAll(ctx, c, mongodb.ID("x"))
		return err
	},
}

var set = bson.D{{Key: "$set", Value: bson.D{{Key: "v", Value: 1}}}}

// TestOutcome proves which outcome each function that writes reports for each kind of reply. An outcome is "not done" only
// if the server has certainly rejected the write.
func TestOutcome(t *testing.T) {
	for name, c := range map[string]struct {
		reply bson.D
		want  string
	}{
		"success":       {reply(), done},
		"duplicate key": {reply(writeError(11000)), exists},
		// The existing document might be lost in a failover, so it does not count as a document.
		"duplicate key without a majority":       {reply(writeError(11000), concernError(64)), unknown},
		"no majority: HostUnreachable":           {reply(concernError(6)), unknown},
		"no majority: HostNotFound":              {reply(concernError(7)), unknown},
		"no majority: Unauthorized":              {reply(concernError(13)), unknown},
		"no majority: MaxTimeMSExpired":          {reply(concernError(50)), unknown},
		"no majority: WriteConcernFailed":        {reply(concernError(64)), unknown},
		"no majority: UnknownReplWriteConcern":   {reply(concernError(79)), unknown},
		"no majority: ShutdownInProgress":        {reply(concernError(91)), unknown},
		"no majority: PrimarySteppedDown":        {reply(concernError(189)), unknown},
		"no majority: Interrupted":               {reply(concernError(11601)), unknown},
		"no majority: invalid document":          {reply(writeError(121), concernError(64)), unknown},
		"command error: InternalError":           {commandError(1), unknown},
		"command error: HostUnreachable":         {commandError(6), unknown},
		"command error: Unauthorized":            {commandError(13), notDone},
		"command error: AuthenticationFailed":    {commandError(18), notDone},
		"command error: MaxTimeMSExpired":        {commandError(50), unknown},
		"command error: ShutdownInProgress":      {commandError(91), unknown},
		"command error: WriteConflict":           {commandError(112), unknown},
		"command error: PrimarySteppedDown":      {commandError(189), unknown},
		"command error: InterruptedAtShutdown":   {commandError(11600), unknown},
		"write error: InternalError":             {reply(writeError(1)), unknown}, // FerretDB without its PostgreSQL server
		"write error: Unauthorized":              {reply(writeError(13)), notDone},
		"write error: DocumentValidationFailure": {reply(writeError(121)), notDone},
		"write error: InterruptedAtShutdown":     {reply(writeError(11600)), unknown},
		"write error: OutOfDiskSpace":            {reply(writeError(14031)), unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for function, write := range writes {
				// Use a new server for each write, because the driver waits half a second after some errors.
				db := open(t, servertest.NullMongoDB(t, func(_, collection string) bson.D {
					if collection == "documents" {
						return c.reply
					}
					return nil
				}))
				err := write(t.Context(), db.Collection("documents"))
				if got := outcome(err); got != c.want {
					t.Errorf("%s: got outcome %q and error %v, want %q", function, got, err, c.want)
				}
				if c.want == unknown && !errors.Is(err, problem.Unavailable) {
					t.Errorf("%s: got error %v, want %v", function, err, problem.Unavailable)
				}
			}
		})
	}
}

// TestOutcomeWithoutReply proves that the outcome of a write is unknown if the connection ends before the reply arrives,
// or if no server is available.
func TestOutcomeWithoutReply(t *testing.T) {
	uri := servertest.NullMongoDB(t, func(_, collection string) bson.D { return nil })
	u := servertest.ParseURL(t, uri)
	u.Host = servertest.Cut{Text: "documents"}.Proxy(t, u.Host)
	for name, uri := range map[string]string{
		"the connection ends":    u.String(),
		"no server is available": "mongodb://127.0.0.1:1/strongroom?serverSelectionTimeoutMS=100",
	} {
		for function, write := range writes {
			t.Run(name+" during "+function, func(t *testing.T) {
				err := write(t.Context(), open(t, uri).Collection("documents"))
				if got := outcome(err); got != unknown || !errors.Is(err, problem.Unavailable) {
					t.Errorf("got outcome %q and error %v, want %q and %v", got, err, unknown, problem.Unavailable)
				}
			})
		}
	}
}

// TestOutcomeAfterTimeout proves that the outcome of an insert is unknown if the server does not reply within the time
// limit.
func TestOutcomeAfterTimeout(t *testing.T) {
	release := make(chan struct{})
	db := open(t, servertest.NullMongoDB(t, func(_, collection string) bson.D {
		if collection == "documents" {
			<-release
		}
		return nil
	}))
	defer close(release)
	err := mongodb.Insert(t.Context(), db.Collection("documents"), 50*time.Millisecond, mongodb.ID("x"), "insert x")
	if got := outcome(err); got != unknown || !errors.Is(err, problem.Unavailable) {
		t.Errorf("got outcome %q and error %v, want %q and %v", got, err, unknown, problem.Unavailable)
	}
}

// TestOutcomeOfCanceledRequest proves that a write is done although its caller has canceled the context, because the
// outcome would otherwise be unknown.
func TestOutcomeOfCanceledRequest(t *testing.T) {
	db := open(t, servertest.NullMongoDB(t, func(_, collection string) bson.D {
		if collection == "documents" {
			return reply()
		}
		return nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for function, write := range writes {
		if err := write(ctx, db.Collection("documents")); err != nil {
			t.Errorf("%s: got error %v, want none", function, err)
		}
	}
}

// TestPutOfTwoProcesses proves that Put replaces the document if another process inserts it at the same time.
func TestPutOfTwoProcesses(t *testing.T) {
	var calls atomic.Int32
	db := open(t, servertest.NullMongoDB(t, func(_, collection string) bson.D {
		switch {
		case collection != "documents":
			return nil
		case calls.Add(1) == 1:
			return reply(writeError(11000))
		}
		return reply()
	}))
	if err := mongodb.Put(t.Context(), db.Collection("documents"), "x", mongodb.ID("x")); err != nil || calls.Load() != 2 {
		t.Errorf("got error %v after %d commands, want none after 2", err, calls.Load())
	}
}

// TestRetryableWrites proves that a write of one document is done if the primary of a replica set steps down, because the
// driver sends the command to the new primary. The driver does not repeat a write of many documents, so the outcome of
// such a write is unknown.
func TestRetryableWrites(t *testing.T) {
	for _, code := range []int{189, 10107, 11602} {
		for function, write := range writes {
			t.Run(fmt.Sprintf("error %d during %s", code, function), func(t *testing.T) {
				t.Parallel()
				var address atomic.Value
				var calls atomic.Int32
				uri := servertest.NullMongoDB(t, func(command, collection string) bson.D {
					switch {
					case strings.EqualFold(command, "hello"), strings.EqualFold(command, "ismaster"):
						return primary(address.Load().(string))
					case collection != "documents":
						return nil
					case calls.Add(1) == 1:
						return append(commandError(code), bson.E{Key: "errorLabels", Value: bson.A{"RetryableWriteError"}})
					}
					return reply()
				})
				address.Store(servertest.ParseURL(t, uri).Host)
				err := write(t.Context(), open(t, uri+"?replicaSet=rs0").Collection("documents"))
				want, commands := done, int32(2)
				if function == "UpdateAll" || function == "RemoveAll" {
					want, commands = unknown, 1
				}
				if got := outcome(err); got != want || calls.Load() != commands {
					t.Errorf("got outcome %q and error %v after %d commands, want %q after %d", got, err, calls.Load(), want, commands)
				}
			})
		}
	}
}

// TestRetryableReads proves that a read succeeds if the primary steps down and another primary is found within the time
// limit. Otherwise, the read returns problem.Unavailable.
func TestRetryableReads(t *testing.T) {
	reads := map[string]func(ctx context.Context, c *mongo.Collection) error{
		"Read": func(ctx context.Context, c *mongo.Collection) error {
			_, err := mongodb.Read[bson.D](ctx, c, "x")
			return err
		},
		"List": func(ctx context.Context, c *mongo.Collection) error {
			_, err := mongodb.List[bson.D](ctx, c, bson.D{}, "_id", 0)
			return err
		},
	}
	for _, code := range []int{10107, 11602} {
		for function, read := range reads {
			for failures, want := range map[int32]error{2: nil, math.MaxInt32: problem.Unavailable} {
				t.Run(fmt.Sprintf("%s gets error %d in %d replies", function, code, failures), func(t *testing.T) {
					t.Parallel()
					ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
					defer cancel()
					var calls atomic.Int32
					db := open(t, servertest.NullMongoDB(t, func(_, collection string) bson.D {
						if collection == "documents" && calls.Add(1) <= failures {
							return commandError(code)
						}
						return nil
					}))
					if err := read(ctx, db.Collection("documents")); !errors.Is(err, want) {
						t.Errorf("got error %v, want %v", err, want)
					}
				})
			}
		}
	}
}

// primary returns the reply to the command hello of the primary of a replica set with one member.
func primary(address string) bson.D {
	return bson.D{
		{Key: "helloOk", Value: true}, {Key: "ismaster", Value: true}, {Key: "isWritablePrimary", Value: true},
		{Key: "setName", Value: "rs0"}, {Key: "setVersion", Value: int32(1)}, {Key: "hosts", Value: bson.A{address}},
		{Key: "me", Value: address}, {Key: "primary", Value: address},
		{Key: "maxBsonObjectSize", Value: int32(16 << 20)}, {Key: "maxMessageSizeBytes", Value: int32(48_000_000)},
		{Key: "maxWriteBatchSize", Value: int32(100_000)}, {Key: "logicalSessionTimeoutMinutes", Value: int32(30)},
		{Key: "minWireVersion", Value: int32(0)}, {Key: "maxWireVersion", Value: int32(25)}, {Key: "ok", Value: 1.0},
	}
}

// open opens the database that uri names. It is closed when the test ends.
func open(t *testing.T, uri string) *mongo.Database {
	t.Helper()
	db, err := mongodb.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mongodb.Close(db) })
	return db
}
