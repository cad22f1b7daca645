package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

// mongoTimeout bounds the commands for the runtime user.
const mongoTimeout = 15 * time.Second

// mongoURI reads a MongoDB URI. Its error shows the variable's name and not its value, which has a password in it.
func mongoURI(variable, uri string) (*connstring.ConnString, error) {
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil || parsed.Database == "" {
		return nil, fmt.Errorf("%s: want mongodb://USER:PASSWORD@HOST:PORT/DATABASE", variable)
	}
	return parsed, nil
}

// setUpMongoDB creates the runtime user if it has an administrator to do so, and the indexes.
func setUpMongoDB(ctx context.Context, cfg config) error {
	if cfg.MongoAdminURI == "" {
		slog.InfoContext(ctx, "MONGODB_ADMIN_URI is not set: setup creates no MongoDB user")
	} else if err := ensureMongoUser(ctx, cfg.MongoAdminURI, cfg.MongoURI); err != nil {
		return err
	}
	return mongodb.Refused("MONGODB_URI", errors.Join(
		withStore(cfg.MongoURI, content.Open, func(s *content.Store) error { return s.EnsureIndexes(ctx) }),
		withStore(cfg.MongoURI, catalog.Open, func(s *catalog.Store) error { return s.EnsureIndexes(ctx) }),
	))
}

// withStore calls do with a store that is closed afterwards.
func withStore[S interface{ Close() error }](uri string, open func(uri string) (S, error), do func(S) error) error {
	store, err := open(uri)
	if err != nil {
		return fmt.Errorf("MONGODB_URI: %w", err)
	}
	return errors.Join(do(store), store.Close())
}

// ensureMongoUser sees to it that the user that runtimeURI names exists, in the database that it authenticates against,
// with that password and with the role readWrite on the database that runtimeURI names. It changes only what differs.
func ensureMongoUser(ctx context.Context, adminURI, runtimeURI string) (err error) {
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
		slog.InfoContext(ctx, "MONGODB_URI names no user: setup creates none")
		return nil
	case runtime.Username == admin.Username && runtime.AuthSource == admin.AuthSource:
		slog.WarnContext(ctx, "the functions use the administrator's MongoDB user, whose roles setup does not change", "user", admin.Username)
		return nil
	}
	db, err := mongodb.Open(adminURI)
	if err != nil {
		return fmt.Errorf("MONGODB_ADMIN_URI: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	ctx, cancel := context.WithTimeout(ctx, mongoTimeout)
	defer cancel()
	u := mongoUser{
		name: runtime.Username, password: runtime.Password,
		roles: []role{{Role: "readWrite", DB: runtime.Database}},
		run: func(ctx context.Context, command bson.D, result any) error {
			return db.Client().Database(runtime.AuthSource).RunCommand(ctx, command).Decode(result)
		},
		signIn: func(ctx context.Context) error { return signIn(ctx, runtimeURI) },
	}
	return mongodb.Refused("MONGODB_ADMIN_URI", mongodb.Problem(u.ensure(ctx), "set up the MongoDB user"))
}

// signIn connects as the user that uri names.
func signIn(ctx context.Context, uri string) (err error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return fmt.Errorf("MONGODB_URI: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	return db.RunCommand(ctx, bson.D{{Key: "ping", Value: 1}}).Err()
}

// role is a role of a MongoDB user.
type role struct {
	Role string `bson:"role"`
	DB   string `bson:"db"`
}

// mongoUser is a MongoDB user as it should be.
type mongoUser struct {
	name, password string
	roles          []role
	// run runs a command on the database that the user authenticates against.
	run func(ctx context.Context, command bson.D, result any) error
	// signIn signs in as the user.
	signIn func(ctx context.Context) error
}

// ensure creates the user, or updates its password or its roles if they differ. A server that cannot update roles, such as
// DocumentDB, leaves the user with the roles that it has: whether they are sufficient shows when setup creates the indexes.
func (u mongoUser) ensure(ctx context.Context) error {
	roles, exists, err := u.find(ctx)
	if err != nil {
		return err
	}
	if !exists {
		err := u.command(ctx, "createUser", bson.E{Key: "pwd", Value: u.password}, bson.E{Key: "roles", Value: u.roles})
		if err == nil {
			return nil
		}
		// Another setup may have created the user at the same time. Servers report that with different codes.
		var findErr error
		if roles, exists, findErr = u.find(ctx); findErr != nil || !exists {
			return errors.Join(err, findErr)
		}
	}
	err = u.signIn(ctx)
	if mongodb.IsRefusal(err) {
		err = u.command(ctx, "updateUser", bson.E{Key: "pwd", Value: u.password})
	}
	if err != nil {
		return err
	}
	if slices.Equal(roles, u.roles) {
		return nil
	}
	err = u.command(ctx, "updateUser", bson.E{Key: "roles", Value: u.roles})
	if err != nil && !mongodb.IsRefusal(err) && !mongodb.Away(err) {
		slog.WarnContext(ctx, "the server does not update the roles of the MongoDB user", "user", u.name, "roles", roles, "error", err)
		return nil
	}
	return err
}

// find returns the roles of the user, and whether it exists.
func (u mongoUser) find(ctx context.Context) (roles []role, exists bool, err error) {
	var found struct {
		Users []struct {
			Roles []role `bson:"roles"`
		} `bson:"users"`
	}
	if err := u.run(ctx, bson.D{{Key: "usersInfo", Value: u.name}}, &found); err != nil {
		return nil, false, fmt.Errorf("usersInfo: %w", err)
	}
	if len(found.Users) == 0 {
		return nil, false, nil
	}
	return found.Users[0].Roles, true, nil
}

// command runs a command on the user.
func (u mongoUser) command(ctx context.Context, name string, arguments ...bson.E) error {
	if err := u.run(ctx, append(bson.D{{Key: name, Value: u.name}}, arguments...), &bson.D{}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
