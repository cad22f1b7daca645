// Command setup is the Job that prepares the stores. In MySQL, it creates the tables, the runtime user, and the first
// users of Strongroom. In MongoDB, it creates the runtime user and the indexes. In RabbitMQ, it declares the
// exchanges and the queues. setup can run repeatedly and concurrently, because it changes only objects that differ
// from the settings. It never changes an existing user of Strongroom, because an admin might have changed that user
// since setup created it.
//
// With arguments, setup runs another command that needs the same privileges. "setup redrive" moves dead letters back
// to the event queue. "setup recatalogue" publishes the events for files that are missing from the catalog. "setup
// users import FILE" creates users with the password hashes that they have in another system.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
)

// config contains the settings of all commands. Each command requires only the settings that it uses.
type config struct {
	// DSN is the MySQL data source name for the runtime user. setup connects as this user to create the users of
	// Strongroom. If AdminDSN is set, setup first creates the runtime user.
	DSN string `env:"MYSQL_DSN,unset"`
	// AdminDSN is the MySQL data source name for an administrator, which must be allowed to create databases, tables
	// and users. If AdminDSN is not set, setup creates the tables as the runtime user, which must then be allowed to
	// create tables.
	AdminDSN string `env:"MYSQL_ADMIN_DSN,unset"`
	// MongoURI is the MongoDB URI for the runtime user. setup connects as this user to create the indexes. If
	// MongoAdminURI is set, setup first creates the runtime user.
	MongoURI string `env:"MONGODB_URI,unset"`
	// MongoAdminURI is the MongoDB URI for an administrator, which must be allowed to create users. If MongoAdminURI
	// is not set, setup does not create a MongoDB user.
	MongoAdminURI string `env:"MONGODB_ADMIN_URI,unset"`
	// EventsURL is the RabbitMQ URL for a user that is allowed to declare exchanges and queues. If EventsURL is not
	// set, setup does not declare exchanges and queues, because the functions then send events over HTTP instead of
	// RabbitMQ.
	EventsURL string `env:"EVENTS_ADMIN_URL,unset"`
	// AdminUsername and AdminPassword are the credentials of the first admin. Either both or neither must be set. If
	// they are not set, setup does not create an admin.
	AdminUsername string `env:"ADMIN_USERNAME,unset"`
	AdminPassword string `env:"ADMIN_PASSWORD,unset"`
	// DemoUsers are additional users for demonstrations. The value of DEMO_USERS is a JSON list of objects with the
	// members username, password and role. Only `make run` sets DEMO_USERS.
	DemoUsers seeds `env:"DEMO_USERS,unset"`
}

// patience is how long setup may take to prepare the stores, including the time until the stores are available. It is
// long, because a new cluster first has to pull the stores' images.
const patience = 5 * time.Minute

func main() { function.Job(setup) }

var errUsage = errors.New("usage: setup (prepare the stores) | setup redrive (move dead letters back to their queue) | setup recatalogue (publish the events for files that are missing from the catalog) | setup users import FILE (create users from a file of JSON lines; - is standard input)")

// setup runs the command that args selects. If args is empty, setup prepares the stores.
func setup(ctx context.Context, cfg config, args []string) error {
	switch {
	case len(args) == 0:
		return prepare(ctx, cfg)
	case slices.Equal(args, []string{"redrive"}), slices.Equal(args, []string{"--redrive"}):
		return redrive(ctx, cfg, os.Stdout)
	case slices.Equal(args, []string{"recatalogue"}):
		return recatalogue(ctx, cfg, os.Stdout)
	case len(args) == 3 && args[0] == "users" && args[1] == "import":
		return importUsers(ctx, cfg, args[2], os.Stdout)
	}
	return errUsage
}

// prepare checks the settings, and then sets up all stores concurrently, so that an unavailable store does not delay
// the setup of the other stores. If a check fails, prepare returns an error before it connects to a store.
func prepare(ctx context.Context, cfg config) error {
	users, err := firstUsers(cfg)
	if err != nil {
		return err
	}
	if err := cfg.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	steps := map[string]func(ctx context.Context) error{
		"MySQL":   func(ctx context.Context) error { return setUpMySQL(ctx, cfg, users) },
		"MongoDB": func(ctx context.Context) error { return setUpMongoDB(ctx, cfg) },
	}
	if cfg.EventsURL == "" {
		slog.InfoContext(ctx, "EVENTS_ADMIN_URL is not set, so setup does not declare exchanges and queues in RabbitMQ")
	} else {
		steps["RabbitMQ"] = func(ctx context.Context) error { return events.DeclareTopology(ctx, cfg.EventsURL) }
	}
	var wg sync.WaitGroup
	failures := make(chan error, len(steps))
	for name, step := range steps {
		wg.Go(func() { failures <- await(ctx, name, step) })
	}
	wg.Wait()
	close(failures)
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return err
}

// check returns an error if a required setting is not set, or if MYSQL_DSN, MONGODB_URI or MONGODB_ADMIN_URI is
// malformed. It does not check the other settings, because they are checked when setup uses them.
func (cfg config) check() error {
	if err := errors.Join(demand("MYSQL_DSN", cfg.DSN), demand("MONGODB_URI", cfg.MongoURI)); err != nil {
		return err
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN: %w", err)
	}
	if _, err := mongoURI("MONGODB_URI", cfg.MongoURI); err != nil {
		return errors.Join(err, store.Close())
	}
	if cfg.MongoAdminURI != "" {
		_, err = mongoURI("MONGODB_ADMIN_URI", cfg.MongoAdminURI)
	}
	return errors.Join(err, store.Close())
}

// demand returns an error with the name of an environment variable if the value of that variable is empty.
func demand(variable, value string) error {
	if value == "" {
		return fmt.Errorf("settings: %s is not set", variable)
	}
	return nil
}
