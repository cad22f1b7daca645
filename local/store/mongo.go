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

	"github.com/strongroom-dev/strongroom/local/process"
)

// Mongo is a running server that supports the MongoDB protocol.
type Mongo struct {
	*Server
	// URI is the connection string for the strongroom database. For mongod, it contains the root account's
	// credentials. For FerretDB, it contains no credentials, because FerretDB does not support accounts.
	URI string
}

// FindMongod returns the path of an installed mongod. The error wraps ErrNotInstalled if mongod is not installed.
func FindMongod() (string, error) { return lookup("mongod", "/usr/local/bin", "/usr/sbin") }

// StartFerretDB starts FerretDB, after building it if necessary. FerretDB stores its data in SQLite files in dir.
func StartFerretDB(ctx context.Context, dir string, w io.Writer) (*Mongo, error) {
	binary, err := Build(ctx, "ferretdb", w)
	if err != nil {
		return nil, err
	}
	m := &Mongo{}
	m.Server, err = start(ctx, "ferretdb", dir, func(dir string) ([]program, error) {
		port, err := process.FreePort()
		if err != nil {
			return nil, err
		}
		m.URI = fmt.Sprintf("mongodb://%s/%s", process.Address(port), database)
		return []program{{
			path: binary,
			args: []string{"-addr", process.Address(port), "-dir", filepath.Join(dir, "data")},
			env:  environment(),
			ready: func(ctx context.Context) error {
				// Use the driver only after the port is open, because the driver waits for half a second before it
				// retries a failed connection.
				if err := dial(ctx, port); err != nil {
					return err
				}
				return pingMongo(ctx, m.URI)
			},
		}}, nil
	})
	return m, err
}

// StartMongod starts an installed mongod with its data in dir.
func StartMongod(ctx context.Context, dir string, w io.Writer) (*Mongo, error) {
	path, err := FindMongod()
	if err != nil {
		return nil, err
	}
	m := &Mongo{}
	m.Server, err = start(ctx, "mongod", dir, func(dir string) ([]program, error) {
		say(w, "starting mongod in %s", dir)
		return m.prepare(path, dir)
	})
	return m, err
}

// prepare sets m.URI and returns the program that serves the data in dir.
func (m *Mongo) prepare(path, dir string) ([]program, error) {
	password, err := secret(filepath.Join(dir, "root-password"))
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	server := url.URL{Scheme: "mongodb", Host: process.Address(port), Path: "/" + database}
	anonymous := server.String()
	server.User, server.RawQuery = url.UserPassword("root", password), "authSource=admin"
	m.URI = server.String()
	return []program{{
		path: path,
		args: []string{
			"--dbpath", data, "--bind_ip", "127.0.0.1", "--port", strconv.Itoa(port), "--auth", "--nounixsocket", "--quiet",
			"--wiredTigerCacheSizeGB", "0.25",
		},
		env: environment(),
		// While mongod has no account, any process on this machine can create the first account. Therefore, create
		// the root account as soon as the port is open.
		ready: func(ctx context.Context) error {
			if err := dial(ctx, port); err != nil {
				return err
			}
			if err := createRoot(ctx, anonymous, password); err != nil {
				return err
			}
			// Sign in as root to make sure that no other process has created the first account.
			return pingMongo(ctx, m.URI)
		},
	}}, nil
}

// unauthorized is mongod's error code for a missing privilege. If an account already exists, mongod returns this
// error when a client tries to create an account without signing in.
const unauthorized = 13

// createRoot creates the root account, which has all privileges. It does nothing if an account already exists.
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

// pingMongo checks that the server is ready by listing the collections of a database without files. If the server has
// accounts, this also checks the password in uri. It does not list the databases, because FerretDB then computes the
// size of each database. With more than 1 GiB of files, this takes longer than the time limit of a check
// (process.Await).
func pingMongo(ctx context.Context, uri string) error {
	return withMongo(uri, func(client *mongo.Client) error {
		_, err := client.Database("admin").ListCollectionNames(ctx, bson.D{})
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
