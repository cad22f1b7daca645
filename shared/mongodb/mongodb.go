// Package mongodb opens MongoDB databases with the options that shared/content and shared/catalog need. It also
// converts MongoDB errors to the errors in the problem package.
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
	// selectionTimeout is how long a call waits for an available server before the call fails. It is also the time
	// limit for each connection attempt and for Close.
	selectionTimeout = 3 * time.Second
	// poolSize is the maximum number of connections from one client to one server. Each call to Open creates a client.
	// The connections from all replicas together must not exceed the server's connection limit, so poolSize is low, and
	// max-scale in the manifests limits the number of replicas.
	poolSize = 16
	// maxIdle is how long an unused connection stays open. The driver then closes the connection, so that an idle
	// function does not hold connections.
	maxIdle = time.Minute
)

// Open returns the database whose name is the path of uri. Open does not wait for a connection. If the server is
// unreachable, Open succeeds, and the first call that uses the database fails.
//
// Options in uri take precedence over the defaults of this package, with these exceptions:
//
//   - Open ignores timeoutMS, because a client-wide timeout would limit the duration of a whole upload. Instead, every
//     call must have a context with a deadline.
//   - Writes are always acknowledged by a majority and journaled, so that an acknowledged write is not lost if a
//     server crashes.
//   - Reads always go to the primary, because quotas and idempotency keys must not depend on a secondary, which might
//     not have replicated the latest writes yet.
func Open(uri string) (*mongo.Database, error) {
	// Do not return the driver's errors, because they can contain the URI and therefore the password.
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil {
		return nil, errors.New("the MongoDB URI is malformed: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	if parsed.Database == "" {
		return nil, errors.New("the MongoDB URI contains no database name: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
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
		return nil, errors.New("the MongoDB URI contains unsupported or invalid options")
	}
	return client.Database(parsed.Database), nil
}

// Close closes the connections of the client that Open created for db. It waits up to selectionTimeout for calls in
// progress.
func Close(db *mongo.Database) error {
	ctx, cancel := context.WithTimeout(context.Background(), selectionTimeout)
	defer cancel()
	if err := db.Client().Disconnect(ctx); err != nil {
		return fmt.Errorf("disconnect from MongoDB: %w", err)
	}
	return nil
}

// awayCodes lists the error codes that a server returns while it cannot run any command, for example because it is
// shutting down, is not the primary, cannot reach a majority, or has exceeded a limit on time, memory or disk space.
var awayCodes = []int{50, 64, 89, 91, 100, 146, 189, 202, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436, 14031}

// Away reports whether err means that the server is unreachable, did not respond, or temporarily cannot run any
// command. Even so, the server might have applied a write that failed with such an error. Away reports false if the
// error was caused by a canceled context.
func Away(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var verdict mongo.ServerError
	if !errors.As(err, &verdict) {
		// The driver, not the server, returned this error. The driver has many different errors for an unreachable
		// server and does not export all of them, so treat every driver error as a sign that the server is unreachable.
		return true
	}
	var command mongo.CommandError
	if errors.As(err, &command) && command.Code == 0 {
		// The driver, not the server, returned this error. A server error always has a code, but the driver returns
		// some of its own errors, such as a broken connection, as a CommandError without a code.
		return true
	}
	return mongo.IsTimeout(err) || verdict.HasErrorLabel("RetryableWriteError") ||
		slices.ContainsFunc(awayCodes, verdict.HasErrorCode)
}

// refusals lists the error codes that a server returns if it rejects the credentials or if the user lacks a privilege:
// Unauthorized (13), AuthenticationFailed (18) and AtlasError (8000). MongoDB Atlas returns AtlasError in both cases.
var refusals = []int{13, 18, 8000}

// IsRefusal reports whether err means that the server rejected the credentials or that the user lacks a privilege.
func IsRefusal(err error) bool { return refusal(err) != nil }

// Refused returns err with the given setting's name as a prefix if IsRefusal reports true for err. The setting must be
// the one that contains the credentials. The result does not wrap problem.Unavailable, because a retry would fail in
// the same way. For any other error, Refused returns err unchanged.
func Refused(setting string, err error) error {
	if verdict := refusal(err); verdict != nil {
		return fmt.Errorf("%s: the server denied the user access: %w", setting, verdict)
	}
	return err
}

// refusal returns the server error that err wraps, or nil if the error's code is not in the list refusals.
func refusal(err error) error {
	var verdict mongo.ServerError
	if errors.As(err, &verdict) && slices.ContainsFunc(refusals, verdict.HasErrorCode) {
		return verdict
	}
	return nil
}

// Problem wraps err and adds the failed action as a prefix. If Away or IsRefusal reports true for err, the returned
// error also wraps problem.Unavailable. Any other error counts as an internal error. If err is nil, Problem returns
// nil.
func Problem(err error, action string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", action, err)
	switch {
	case IsRefusal(err):
		return problem.Unavailable.Because(fmt.Errorf("MONGODB_URI: the server denied the user access: %w", err), "the store is not set up")
	case Away(err):
		return problem.Unavailable.Because(err, "the store is unavailable")
	}
	return err
}
