// Package mongodb connects to MongoDB the way shared/content and shared/catalog need it, and turns its errors into
// problems.
package mongodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// selectionTimeout is how long a call waits for a server that is away before it fails.
	selectionTimeout = 3 * time.Second
	// poolSize bounds the connections of one process; times max-scale it must fit the server.
	poolSize = 16
	// maxIdle closes connections that a quiet function holds.
	maxIdle = time.Minute
)

// Open returns the database that uri names as its path. It makes no connection that it waits for: a server that is
// away shows in the first call. Timeouts in the uri take precedence over the ones here, but there is no client-wide
// timeout, because that would cover the whole life of an upload: every call must bring a deadline. Writes are
// acknowledged by a majority and journaled. Reads go to the primary, whatever the uri says: quotas, idempotency keys and
// locks must not depend on what a secondary has not replicated yet.
func Open(uri string) (*mongo.Database, error) {
	// Errors of the driver may quote the uri, and with it the password: they are not passed on.
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil {
		return nil, errors.New("the MongoDB URI is not well-formed: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	if parsed.Database == "" {
		return nil, errors.New("the MongoDB URI names no database: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	opts := options.Client().
		SetAppName("strongroom").
		SetServerSelectionTimeout(selectionTimeout).
		SetConnectTimeout(selectionTimeout).
		SetMaxPoolSize(poolSize).
		SetMaxConnIdleTime(maxIdle).
		ApplyURI(uri)
	opts.Timeout = nil
	journaled := true
	opts.SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &journaled})
	opts.SetReadPreference(readpref.Primary())
	client, err := mongo.Connect(opts)
	if err != nil {
		return nil, errors.New("the MongoDB URI asks for what the driver can not do")
	}
	return client.Database(parsed.Database), nil
}

// Close ends the connections of db's client. It waits a short time for calls in progress.
func Close(db *mongo.Database) error {
	ctx, cancel := context.WithTimeout(context.Background(), selectionTimeout)
	defer cancel()
	if err := db.Client().Disconnect(ctx); err != nil {
		return fmt.Errorf("disconnect from MongoDB: %w", err)
	}
	return nil
}

// awayCodes are the verdicts of a server that can not do its work right now, whatever the command: it shuts down, is
// no primary, is over a limit of time, memory or disk, or can not reach the majority.
var awayCodes = []int{50, 64, 89, 91, 100, 146, 189, 202, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436, 14031}

// Away tells whether err says that the server could not be asked, gave no answer, or can not do its work right now.
// A write that failed so may have been done nevertheless.
func Away(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var verdict mongo.ServerError
	if !errors.As(err, &verdict) {
		// The driver has many errors of its own for a server that it can not reach, not all of them exported.
		return true
	}
	var command mongo.CommandError
	if errors.As(err, &command) && command.Code == 0 {
		// Not a server's either: the driver dresses up its own, such as a connection that broke, as one of these.
		return true
	}
	return mongo.IsTimeout(err) || verdict.HasErrorLabel("RetryableWriteError") ||
		slices.ContainsFunc(awayCodes, verdict.HasErrorCode)
}

// refusals are the codes of a server that refuses the credentials or a privilege of the user: Unauthorized,
// AuthenticationFailed, and AtlasError, with which MongoDB Atlas reports both.
var refusals = []int{13, 18, 8000}

// IsRefusal reports whether err says that the server refuses the credentials or a privilege of the user.
func IsRefusal(err error) bool { return refusal(err) != nil }

// Refused returns what the server said, with the name of the setting that has the user's credentials, if err says that
// the server refuses the credentials or a privilege of that user. It returns any other err unchanged. The result does not
// wrap problem.Unavailable: waiting does not help.
func Refused(setting string, err error) error {
	if verdict := refusal(err); verdict != nil {
		return fmt.Errorf("%s: the server refuses the user: %w", setting, verdict)
	}
	return err
}

// refusal returns the server's error in err if it is one of refusals, and nil otherwise.
func refusal(err error) error {
	var verdict mongo.ServerError
	if errors.As(err, &verdict) && slices.ContainsFunc(refusals, verdict.HasErrorCode) {
		return verdict
	}
	return nil
}

// Problem adds to err what was being done. The result is a problem.Unavailable if Away says so, or if the server refuses
// the user; otherwise it is an internal error. Problem returns nil for nil.
func Problem(err error, doing string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	switch {
	case IsRefusal(err):
		return problem.Unavailable.Because(fmt.Errorf("MONGODB_URI: the server refuses the user: %w", err), "the store is not set up")
	case Away(err):
		return problem.Unavailable.Because(err, "the store can not be reached right now")
	}
	return err
}
