// Package mongodb opens MongoDB databases, and contains the database operations that the packages content, outbox and
// catalog share. It also converts MongoDB errors to the errors in the problem package.
package mongodb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// selectionTimeout is the time limit for finding an available server, for each connection attempt and for Close.
	selectionTimeout = 3 * time.Second
	// poolSize is the maximum number of connections in the pool for one server. It is low, because all replicas share
	// the server's connection limit. max-scale in the manifests limits the number of replicas.
	poolSize = 16
	// MaxConns is the maximum number of connections from one client to one server: the connections in the pool, and two
	// connections with which the driver monitors the server.
	MaxConns = poolSize + 2
	// maxIdle is the maximum idle time of a connection. The driver closes connections that have been idle for
	// longer, so that an idle function holds no connections.
	maxIdle = time.Minute
)

// Parse parses a MongoDB URI, which must contain a database name. If the scheme is mongodb+srv, Parse looks up the
// servers in DNS. If the lookup fails, the error wraps problem.Unavailable. No error shows the URI, because it contains
// a password.
func Parse(uri string) (*connstring.ConnString, error) {
	// Do not return the driver's other errors, because they can contain the URI.
	parsed, err := connstring.ParseAndValidate(uri)
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup):
		return nil, problem.Unavailable.Because(lookup, "the servers in the MongoDB URI cannot be looked up")
	case err != nil:
		return nil, errors.New("the MongoDB URI is malformed: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
	case parsed.Database == "":
		return nil, errors.New("the MongoDB URI contains no database name: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE")
	case unverified(parsed):
		return nil, errors.New("the MongoDB URI must not contain tlsInsecure, tlsAllowInvalidCertificates or " +
			"tlsAllowInvalidHostnames, because the identity of the server must be verified: set tls=true")
	}
	return parsed, nil
}

// Open returns the database that uri names, without waiting for a connection. It ignores the timeoutMS option in
// uri, so every database call must have a context with a deadline. It returns the errors of Parse.
func Open(uri string) (*mongo.Database, error) {
	parsed, err := Parse(uri)
	if err != nil {
		return nil, err
	}
	opts := options.Client().
		SetAppName("strongroom").
		SetServerSelectionTimeout(selectionTimeout).
		SetConnectTimeout(selectionTimeout).
		SetMaxPoolSize(poolSize).
		SetMaxConnIdleTime(maxIdle).
		ApplyURI(uri) // options in uri override the options above
	// Ignore timeoutMS, because a client-wide timeout would limit the duration of a whole upload.
	opts.Timeout = nil
	// Ignore the write concern in uri. With a weaker write concern, an acknowledged write could be lost if a
	// server crashes.
	journaled := true
	opts.SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &journaled})
	// Ignore the read preference and the read concern in uri. A secondary might not have the latest writes. A write
	// that only a minority of the servers has can be lost in a failover. A decision must not depend on old data or on a
	// write that can be lost.
	opts.SetReadPreference(readpref.Primary())
	opts.SetReadConcern(readconcern.Majority())
	client, err := mongo.Connect(opts)
	if err != nil {
		return nil, errors.New("the MongoDB URI contains unsupported or invalid options")
	}
	return client.Database(parsed.Database), nil
}

// unverified reports whether an option in uri disables the verification of the server's certificate. The driver
// supports only tlsInsecure, and ignores the other options.
func unverified(uri *connstring.ConnString) bool {
	return uri.SSLInsecure || slices.ContainsFunc([]string{"tlsallowinvalidcertificates", "tlsallowinvalidhostnames"},
		func(option string) bool { return slices.Contains(uri.UnknownOptions[option], "true") })
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

// awayCodes lists the server error codes for temporary failures, such as a shutdown, an unreachable host, a missing
// primary, a missing majority, or an exceeded limit on time, memory or disk space. InternalError (1) is in the list,
// because FerretDB reports it while its PostgreSQL server is unavailable.
var awayCodes = []int{
	1, 6, 7, 50, 64, 89, 91, 100, 112, 146, 189, 202, 262, 9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031,
}

// Away reports whether err means that the server is unreachable, does not respond, or temporarily cannot run
// commands. If the failed command was a write, the server might still have applied it.
func Away(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || unsent(err) {
		return false
	}
	var verdict mongo.ServerError
	if !errors.As(err, &verdict) {
		// The error is from the driver, not from the server. The driver does not export all of its errors for an
		// unreachable server, so assume that every driver error means that the server is unreachable.
		return true
	}
	var command mongo.CommandError
	if errors.As(err, &command) && command.Code == 0 {
		// A server error always has a code, so this is a driver error, such as a broken connection.
		return true
	}
	var write mongo.WriteException
	if errors.As(err, &write) && write.WriteConcernError != nil {
		return true // whatever the code is, it is unknown whether a majority has the write
	}
	return mongo.IsTimeout(err) || verdict.HasErrorLabel("RetryableWriteError") ||
		slices.ContainsFunc(awayCodes, verdict.HasErrorCode)
}

// unsent reports whether err means that the driver could not encode the command and therefore did not send it. A retry
// would fail in the same way.
func unsent(err error) bool {
	var encoding mongo.MarshalError
	return errors.As(err, &encoding)
}

// refusals lists the error codes for rejected credentials or a missing privilege: Unauthorized (13),
// AuthenticationFailed (18) and AtlasError (8000), which MongoDB Atlas returns in both cases.
var refusals = []int{13, 18, 8000}

// IsRefusal reports whether err means that the server rejected the credentials or that the user lacks a privilege.
func IsRefusal(err error) bool { return refusal(err) != nil }

// Refused returns the server error in err, with a setting's name as a prefix, if IsRefusal reports true for err.
// Otherwise, it returns err unchanged. Pass the name of the setting that contains the credentials.
func Refused(setting string, err error) error {
	if verdict := refusal(err); verdict != nil {
		// Do not wrap problem.Unavailable, because a retry would fail in the same way.
		return fmt.Errorf("%s: MongoDB denied the user access: %w", setting, verdict)
	}
	return err
}

// refusal returns the server error in err if the code of the server error is in the refusals list. Otherwise, it
// returns nil.
func refusal(err error) error {
	var verdict mongo.ServerError
	if errors.As(err, &verdict) && slices.ContainsFunc(refusals, verdict.HasErrorCode) {
		return verdict
	}
	return nil
}

// Problem wraps err with the failed action as a prefix. If Away or IsRefusal reports true for err, the result also
// wraps problem.Unavailable.
func Problem(err error, action string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", action, err)
	switch {
	case IsRefusal(err):
		return problem.Unavailable.Because(fmt.Errorf("MONGODB_URI_FILE: MongoDB denied the user access: %w", err), "the store is not set up")
	case Away(err):
		return problem.Unavailable.Because(err, "the store is unavailable")
	}
	return err
}
