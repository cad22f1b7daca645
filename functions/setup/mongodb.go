package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
)

const (
	// keysTime is the maximum time for which setup adds the keys of catalog entries. The sweep function adds the other
	// keys.
	keysTime = time.Minute
	// keysAtOnce is the number of catalog entries to which one call adds keys.
	keysAtOnce = 1000
)

// mongoTimeout is the time limit for creating or updating the functions' MongoDB user.
const mongoTimeout = 15 * time.Second

// mongoURI parses the MongoDB URI in an environment variable.
func mongoURI(variable, uri string) (*connstring.ConnString, error) {
	parsed, err := mongodb.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	return parsed, nil
}

// setUpMongoDB creates the indexes in MongoDB, and upgrades the data of the previous version. If MONGODB_ADMIN_URI_FILE
// is set, it first creates or updates the functions' MongoDB user.
func setUpMongoDB(ctx context.Context, cfg config) error {
	if cfg.MongoAdminURI == "" {
		slog.InfoContext(ctx, "MONGODB_ADMIN_URI_FILE is not set, so setup does not create a MongoDB user")
	} else if err := ensureMongoUser(ctx, string(cfg.MongoAdminURI), string(cfg.MongoURI)); err != nil {
		return err
	}
	err := ensureIndexes(ctx, cfg)
	if err == nil {
		err = upgrade(ctx, cfg)
	}
	if err == nil {
		err = withStores(cfg, func(_ *content.Store, entries *catalog.Store) error { return addKeys(ctx, entries) })
	}
	return mongodb.Refused("MONGODB_URI_FILE", err)
}

// ensureIndexes creates the missing indexes in MongoDB.
func ensureIndexes(ctx context.Context, cfg config) error {
	return withStores(cfg, func(files *content.Store, entries *catalog.Store) error {
		if err := files.EnsureIndexes(ctx); err != nil {
			return err
		}
		return entries.EnsureIndexes(ctx)
	})
}

// addKeys adds the keys to the catalog entries that the previous version inserted.
func addKeys(ctx context.Context, entries *catalog.Store) error {
	for end := time.Now().Add(keysTime); time.Now().Before(end); {
		if n, err := entries.AddKeys(ctx, keysAtOnce); err != nil || n < keysAtOnce {
			return err
		}
	}
	slog.InfoContext(ctx, "the sweep function adds the remaining keys of catalog entries")
	return nil
}

// withStore opens the store at address, calls action with the open store, and then closes the store. setting is the
// name of the environment variable that contains address.
func withStore[S io.Closer](setting, address string, open func(address string) (S, error), action func(S) error) error {
	store, err := open(address)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	return errors.Join(action(store), store.Close())
}

// ensureMongoUser creates or updates the MongoDB user in runtimeURI, and gives this user the readWrite role on the
// database in runtimeURI. It connects with the credentials in adminURI.
func ensureMongoUser(ctx context.Context, adminURI, runtimeURI string) (err error) {
	admin, err := mongoURI("MONGODB_ADMIN_URI_FILE", adminURI)
	if err != nil {
		return err
	}
	runtime, err := mongoURI("MONGODB_URI_FILE", runtimeURI)
	if err != nil {
		return err
	}
	switch {
	case runtime.Username == "":
		slog.InfoContext(ctx, "MONGODB_URI_FILE contains no user name, so setup does not create a MongoDB user")
		return nil
	case runtime.Username == admin.Username && runtime.AuthSource == admin.AuthSource:
		slog.WarnContext(ctx, "MONGODB_URI_FILE and MONGODB_ADMIN_URI_FILE name the same MongoDB user, so setup does not change that user's roles", "user", admin.Username)
		return nil
	}
	db, err := mongodb.Open(adminURI)
	if err != nil {
		return fmt.Errorf("MONGODB_ADMIN_URI_FILE: %w", err)
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
	return mongodb.Refused("MONGODB_ADMIN_URI_FILE", mongodb.Problem(u.ensure(ctx), "set up the MongoDB user"))
}

// signIn connects to MongoDB with the credentials in uri. It returns an error if the server is unavailable or rejects
// the credentials.
func signIn(ctx context.Context, uri string) (err error) {
	db, err := mongodb.Open(uri)
	if err != nil {
		return fmt.Errorf("MONGODB_URI_FILE: %w", err)
	}
	defer func() { err = errors.Join(err, mongodb.Close(db)) }()
	return db.RunCommand(ctx, bson.D{{Key: "ping", Value: 1}}).Err()
}

// role is a MongoDB role and the database to which the role applies.
type role struct {
	Role string `bson:"role"`
	DB   string `bson:"db"`
}

// mongoUser is a MongoDB user that setup creates or updates.
type mongoUser struct {
	name, password string
	roles          []role
	// run sends a command to the user's authentication database and decodes the response into result.
	run func(ctx context.Context, command bson.D, result any) error
	// signIn checks that the server accepts the user name and the password.
	signIn func(ctx context.Context) error
}

// ensure creates the user. If the user already exists with another password or other roles, ensure updates them.
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
		// Another setup process might have created the user at the same time. Look for the user instead of checking
		// the error code, which differs from server to server.
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
	// Some servers, such as DocumentDB, cannot update roles. Continue, because the existing roles might be
	// sufficient. If they are not, the creation of the indexes fails later.
	if err != nil && !mongodb.IsRefusal(err) && !mongodb.Away(err) {
		slog.WarnContext(ctx, "could not update the roles of the MongoDB user", "user", u.name, "roles", roles, "error", err)
		return nil
	}
	return err
}

// find returns the user's roles, and reports whether the user exists.
func (u mongoUser) find(ctx context.Context) (roles []role, exists bool, err error) {
	var found struct {
		Users []struct {
			Roles []role `bson:"roles"`
		} `bson:"users"`
	}
	if err := u.run(ctx, bson.D{{Key: "usersInfo", Value: u.name}}, &found); err != nil {
		return nil, false, fmt.Errorf("run the MongoDB command usersInfo: %w", err)
	}
	if len(found.Users) == 0 {
		return nil, false, nil
	}
	return found.Users[0].Roles, true, nil
}

// command runs a MongoDB command that creates or updates the user.
func (u mongoUser) command(ctx context.Context, name string, arguments ...bson.E) error {
	if err := u.run(ctx, append(bson.D{{Key: name, Value: u.name}}, arguments...), &bson.D{}); err != nil {
		return fmt.Errorf("run the MongoDB command %s: %w", name, err)
	}
	return nil
}
