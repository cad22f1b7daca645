package mongodb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestOpen(t *testing.T) {
	db, err := Open("mongodb://user:secret@one.example:1,two.example:2/strongroom?authSource=strongroom&timeoutMS=100")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := db.Name(), "strongroom"; got != want {
		t.Errorf("got database %q, want %q", got, want)
	}
	if err := Close(db); err != nil {
		t.Error(err)
	}
	for _, uri := range []string{
		"", "localhost", "mysql://user:secret@localhost/strongroom", "mongodb://user:secret@localhost", "mongodb://user:secret@localhost/",
		"mongodb://user:secret@localhost/strongroom?directConnection=perhaps", "mongodb://user:sec%ret@localhost/strongroom",
		"mongodb://user:secret@localhost,other/strongroom?directConnection=true",
		"mongodb://user:secret@localhost/strongroom?tls=true&tlsInsecure=true",
		"mongodb://user:secret@localhost/strongroom?tls=true&tlsAllowInvalidCertificates=true",
		"mongodb://user:secret@localhost/strongroom?tls=true&tlsAllowInvalidHostnames=true",
		"mongodb+srv://user:secret@strongroom.invalid/strongroom",
	} {
		if _, err := Open(uri); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sec%ret") {
			t.Errorf("Open(%q): got error %v, want an error without the password", uri, err)
		}
	}
}

// TestOpenIgnoresReadSettings proves that the URI can neither send reads to secondaries nor weaken their read concern,
// because decisions depend on what is read.
func TestOpenIgnoresReadSettings(t *testing.T) {
	db, err := Open("mongodb://h:1/strongroom?readPreference=secondaryPreferred&readConcernLevel=available")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Close(db) })
	settings := reflect.ValueOf(db).Elem() // the driver has no method that returns these settings
	if got := readpref.Mode(settings.FieldByName("readPreference").Elem().FieldByName("mode").Uint()); got != readpref.PrimaryMode {
		t.Errorf("got read preference %v, want %v", got, readpref.PrimaryMode)
	}
	if got := settings.FieldByName("readConcern").Elem().FieldByName("Level").String(); got != "majority" {
		t.Errorf("got read concern %q, want majority", got)
	}
}

// TestAwayAfterWriteConcernError proves that Away reports true for every write concern error, because the server might
// keep the write.
func TestAwayAfterWriteConcernError(t *testing.T) {
	for _, code := range []int{6, 7, 13, 50, 64, 79, 91, 133, 189, 290, 317, 384, 11601} {
		if !Away(mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: code}}) {
			t.Errorf("write concern error %d: got false, want true", code)
		}
	}
}

// TestOutcomeOfUnencodableWrite proves that a write that the driver cannot encode has a known outcome: the write is not
// done.
func TestOutcomeOfUnencodableWrite(t *testing.T) {
	err := outcome(mongo.MarshalError{Err: errors.New("BSON element key cannot contain null bytes")}, "test")
	if errors.Is(err, ErrUnknown) || problem.Status(err) != 500 {
		t.Errorf("got error %v, want an internal error with a known outcome", err)
	}
}

func TestProblem(t *testing.T) {
	verdict := func(code int) error { return mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: code}}} }
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"deadline exceeded":                    {context.DeadlineExceeded, 503},
		"network error":                        {&net.OpError{Op: "dial", Err: errors.New("refused")}, 503},
		"client closed":                        {mongo.ErrClientDisconnected, 503},
		"network error as the driver wraps it": {mongo.CommandError{Labels: []string{"NetworkError"}}, 503},
		"connection pool cleared":              {mongo.CommandError{Message: "connection pool was cleared", Labels: []string{"TransientTransactionError"}}, 503},
		"server shuts down":                    {mongo.CommandError{Code: 11600}, 503},
		"no primary":                           {mongo.CommandError{Code: 10107}, 503},
		"retryable error":                      {mongo.CommandError{Code: 1, Labels: []string{"RetryableWriteError"}}, 503},
		"time limit exceeded":                  {mongo.CommandError{Code: 50}, 503},
		"no majority":                          {mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: 64}}, 503},
		"disk full":                            {verdict(14031), 503},
		"duplicate key":                        {verdict(11000), 500},
		"unauthorized command":                 {mongo.CommandError{Code: 13}, 503},
		"unauthorized write":                   {verdict(13), 503},
		"wrong password":                       {mongo.CommandError{Code: 18}, 503},
		"refused by Atlas":                     {mongo.CommandError{Code: 8000}, 503},
		"context canceled":                     {context.Canceled, 500},
		"command that cannot be encoded":       {mongo.MarshalError{Err: errors.New("BSON regex values cannot contain null bytes")}, 500},
	} {
		got := Problem(fmt.Errorf("wrapped: %w", c.err), "test")
		if status := problem.Status(got); status != c.want {
			t.Errorf("%s: got status %d, want %d", name, status, c.want)
		}
		if !strings.Contains(got.Error(), "test") {
			t.Errorf("%s: got error %q, want an error that names the action", name, got)
		}
	}
	if err := Problem(nil, "test"); err != nil {
		t.Errorf("nil: got error %v, want nil", err)
	}
}

func TestServerAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // no server listens on the address now
		t.Fatal(err)
	}
	db, err := Open("mongodb://" + address + "/strongroom?serverSelectionTimeoutMS=100")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Close(db) })
	err = db.RunCommand(t.Context(), bson.D{{Key: "ping", Value: 1}}).Err()
	if !errors.Is(Problem(err, "ping"), problem.Unavailable) {
		t.Errorf("got error %v, want %v", err, problem.Unavailable)
	}
}

// TestReadOfImpossibleID proves that Read sends no request for an ID that no document can have. FerretDB and the driver
// can fail because of such an ID, and the failure would look like an unavailable server.
func TestReadOfImpossibleID(t *testing.T) {
	db, err := Open("mongodb://127.0.0.1:1/strongroom?serverSelectionTimeoutMS=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Close(db) })
	for _, c := range []struct {
		id   string
		sent bool // whether Read must send a request
	}{{"a\x00", false}, {"a\n", false}, {"a\u0085", false}, {"a\xff", false}, {"a", true}} {
		got, err := Read[bson.D](t.Context(), db.Collection("c"), c.id)
		if got != nil || (err != nil) != c.sent {
			t.Errorf("%q: got %v and error %v, want no document, and an error only if a request was sent", c.id, got, err)
		}
	}
}
