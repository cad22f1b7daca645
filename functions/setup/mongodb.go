package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// mongoTimeout bounds the making of the user.
const mongoTimeout = 15 * time.Second

// Error codes of MongoDB.
const (
	codeNotImplemented = 238 // FerretDB's
	codeDuplicateKey   = 11000
	codeUserExists     = 51003
)

// mongoURI reads a MongoDB URI. Its error shows the variable's name and not its value, which has a password in it.
func mongoURI(variable, uri string) (*connstring.ConnString, error) {
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil || parsed.Database == "" {
		return nil, fmt.Errorf("%s: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE", variable)
	}
	return parsed, nil
}

// setUpMongoDB makes the runtime user where there is an administrator to make it, and the indexes.
func setUpMongoDB(ctx context.Context, cfg config) error {
	if cfg.MongoAdminURI == "" {
		slog.InfoContext(ctx, "MONGODB_ADMIN_URI is not set: no MongoDB user is made")
	} else if err := makeMongoUser(ctx, cfg.MongoAdminURI, cfg.MongoURI); err != nil {
		return err
	}
	return errors.Join(
		withStore(cfg.MongoURI, content.Open, func(s *content.Store) error { return s.EnsureIndexes(ctx) }),
		withStore(cfg.MongoURI, catalog.Open, func(s *catalog.Store) error { return s.EnsureIndexes(ctx) }),
	)
}

// withStore calls do with a store that is closed afterwards.
func withStore[S interface{ Close() error }](uri string, open func(uri string) (S, error), do func(S) error) error {
	store, err := open(uri)
	if err != nil {
		return fmt.Errorf("MONGODB_URI: %w", err)
	}
	return errors.Join(do(store), store.Close())
}

// makeMongoUser makes the user that runtimeURI names, in the database that it authenticates against, with the right to
// read and write the database that it names; one that is there gets the password and the rights.
func makeMongoUser(ctx context.Context, adminURI, runtimeURI string) (err error) {
	admin, err := mongoURI("MONGODB_ADMIN_URI", adminURI)
	if err != nil {
		return err
	}
	runtime, err := mongoURI("MONGODB_URI", runtimeURI)
	if err != nil {
		return err
	}
	switch {
	case runtime.Username == "":
		slog.InfoContext(ctx, "MONGODB_URI names no user: none is made")
		return nil
	case runtime.Username == admin.Username && runtime.AuthSource == admin.AuthSource:
		slog.WarnContext(ctx, "the functions use the administrator's MongoDB user; it keeps its rights", "user", admin.Username)
		return nil
	}
	db, err := mongodb.Open(adminURI)
	if err != nil {
		return fmt.Errorf("MONGODB_ADMIN_URI: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	ctx, cancel := context.WithTimeout(ctx, mongoTimeout)
	defer cancel()
	source := db.Client().Database(runtime.AuthSource)
	err = putMongoUser(ctx, runtime, func(ctx context.Context, command bson.D) error {
		return source.RunCommand(ctx, command).Err()
	})
	return mongodb.Problem(err, "make the MongoDB user")
}

// putMongoUser makes or updates a user by commands to the database that it authenticates against.
func putMongoUser(ctx context.Context, user *connstring.ConnString, run func(ctx context.Context, command bson.D) error) error {
	roles := bson.A{bson.D{{Key: "role", Value: "readWrite"}, {Key: "db", Value: user.Database}}}
	put := func(command string) error {
		return run(ctx, bson.D{{Key: command, Value: user.Username}, {Key: "pwd", Value: user.Password}, {Key: "roles", Value: roles}})
	}
	err := put("createUser")
	if hasCode(err, codeNotImplemented) {
		slog.WarnContext(ctx, "this server knows no roles: the runtime user may do whatever the server lets it", "error", err)
		roles = bson.A{}
		err = put("createUser")
	}
	if hasCode(err, codeUserExists, codeDuplicateKey) {
		err = put("updateUser")
	}
	return err
}

func hasCode(err error, codes ...int) bool {
	var refused mongo.ServerError
	if !errors.As(err, &refused) {
		return false
	}
	for _, code := range codes {
		if refused.HasErrorCode(code) {
			return true
		}
	}
	return false
}
