package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// Mongo is a running server that speaks the MongoDB protocol.
type Mongo struct {
	*Server
	// URI names the database strongroom, with an account that may do anything; FerretDB has no accounts.
	URI string
	// Kind is mongod or ferretdb.
	Kind string
}

// FindMongod finds the path of an installed mongod, ErrNotInstalled if there is none.
func FindMongod() (string, error) { return lookup("mongod", "/usr/local/bin", "/usr/sbin") }

// StartFerretDB builds FerretDB, where that is not done yet, and starts it with its data in dir, as SQLite files.
func StartFerretDB(ctx context.Context, dir string, w io.Writer) (*Mongo, error) {
	binary, err := Build(ctx, "ferretdb", w)
	if err != nil {
		return nil, err
	}
	dir, lock, err := open(dir)
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	uri := fmt.Sprintf("mongodb://%s/%s", address(port), database)
	server, err := start(ctx, "ferretdb", dir, lock, program{
		path: binary,
		args: []string{"-addr", address(port), "-dir", filepath.Join(dir, "data")},
		env:  environment(), dir: dir, log: filepath.Join(dir, "server.log"),
		ready: func(ctx context.Context) error {
			// The driver waits half a second before it tries again: ask it once there is somebody to answer.
			if err := dial(ctx, port); err != nil {
				return err
			}
			return pingMongo(ctx, uri)
		},
	})
	if err != nil {
		return nil, err
	}
	return &Mongo{Server: server, URI: uri, Kind: "ferretdb"}, nil
}

// StartMongod starts an installed mongod with its data in dir.
func StartMongod(ctx context.Context, dir string, w io.Writer) (*Mongo, error) {
	path, err := FindMongod()
	if err != nil {
		return nil, err
	}
	dir, lock, err := open(dir)
	if err != nil {
		return nil, err
	}
	mongod, err := startMongod(ctx, path, dir, lock, w)
	if err != nil {
		return nil, fmt.Errorf("start mongod: %w", err)
	}
	return mongod, nil
}

func startMongod(ctx context.Context, path, dir string, lock *os.File, w io.Writer) (*Mongo, error) {
	password, err := secret(filepath.Join(dir, "root-password"))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	without := (&url.URL{Scheme: "mongodb", Host: address(port), Path: "/" + database}).String()
	uri := (&url.URL{
		Scheme: "mongodb", User: url.UserPassword("root", password), Host: address(port), Path: "/" + database,
		RawQuery: "authSource=admin",
	}).String()
	say(w, "starting mongod in %s", dir)
	server, err := start(ctx, "mongod", dir, lock, program{
		path: path,
		args: []string{
			"--dbpath", data, "--bind_ip", "127.0.0.1", "--port", strconv.Itoa(port), "--auth", "--nounixsocket", "--quiet",
			"--wiredTigerCacheSizeGB", "0.25",
		},
		env: environment(), dir: dir, log: filepath.Join(dir, "server.log"),
		// Until there is an account, anyone on this machine may make the first: so it is made in the first moment, and
		// the server counts as ready only once root can sign in with the password.
		ready: func(ctx context.Context) error {
			if err := dial(ctx, port); err != nil {
				return err
			}
			if err := createRoot(ctx, without, password); err != nil {
				return err
			}
			return pingMongo(ctx, uri)
		},
	})
	if err != nil {
		return nil, err
	}
	return &Mongo{Server: server, URI: uri, Kind: "mongod"}, nil
}

// unauthorized is mongod's error code for what a client may not do; no first account can be made when there is one.
const unauthorized = 13

// createRoot makes the first account, where there is none.
func createRoot(ctx context.Context, uri, password string) error {
	return withMongo(uri, func(client *mongo.Client) error {
		err := client.Database("admin").RunCommand(ctx, bson.D{
			{Key: "createUser", Value: "root"},
			{Key: "pwd", Value: password},
			{Key: "roles", Value: bson.A{"root"}},
		}).Err()
		var refused mongo.CommandError
		if errors.As(err, &refused) && refused.Code == unauthorized {
			return nil
		}
		return err
	})
}

// pingMongo asks something that needs an account, where the server has any.
func pingMongo(ctx context.Context, uri string) error {
	return withMongo(uri, func(client *mongo.Client) error {
		_, err := client.ListDatabaseNames(ctx, bson.D{})
		return err
	})
}

func withMongo(uri string, use func(*mongo.Client) error) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(2 * time.Second))
	if err != nil {
		return err
	}
	defer func() { _ = client.Disconnect(context.Background()) }()
	return use(client)
}
