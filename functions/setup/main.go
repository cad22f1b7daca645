// Command setup is the Job that brings the stores into shape: tables and the runtime user in MySQL, the runtime user
// and indexes in MongoDB, the topology in RabbitMQ, the first users. It may run any number of times, also side by
// side: what is there already stays as it is.
//
// With arguments it does instead what else takes its rights: "setup redrive" moves dead letters back, "setup recatalogue"
// publishes the events of files that are not in the catalogue, and "setup users import FILE" makes users with the password
// hashes that they had elsewhere.
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

// config is what the commands read; each demands only what it needs.
type config struct {
	// DSN is of the runtime user of MySQL, which is made if AdminDSN is given. Users are made with its rights.
	DSN string `env:"MYSQL_DSN,unset"`
	// AdminDSN is of a MySQL user that may make databases, tables and users. Without it DSN's user must be able to
	// make the tables.
	AdminDSN string `env:"MYSQL_ADMIN_DSN,unset"`
	// MongoURI is of the runtime user of MongoDB, which is made if MongoAdminURI is given. The indexes are made with its
	// rights.
	MongoURI string `env:"MONGODB_URI,unset"`
	// MongoAdminURI is of a MongoDB user that may make users. Without it no user is made.
	MongoAdminURI string `env:"MONGODB_ADMIN_URI,unset"`
	// EventsURL is of a RabbitMQ user that may declare. Without it there is no topology: events travel by HTTP.
	EventsURL string `env:"EVENTS_ADMIN_URL,unset"`
	// AdminUsername and AdminPassword are the first admin's. Neither or both; without them none is made.
	AdminUsername string `env:"ADMIN_USERNAME,unset"`
	AdminPassword string `env:"ADMIN_PASSWORD,unset"`
	// DemoUsers are made, too: a JSON list of {"username","password","role"}. Only make run sets it.
	DemoUsers seeds `env:"DEMO_USERS,unset"`
}

// patience is how long setup waits for the stores to come up, all in all: a new cluster pulls their images meanwhile.
const patience = 5 * time.Minute

func main() { function.Job(setup) }

var errUsage = errors.New("usage: setup (prepares the stores) | setup redrive (moves dead letters back) | setup recatalogue (publishes the events of files that are not in the catalogue) | setup users import FILE (makes users of JSON lines; - is standard input)")

// setup does what args ask for.
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

// prepare prepares each store as soon as it answers, whether or not the others do. Wrong settings it tells at once.
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
		slog.InfoContext(ctx, "EVENTS_ADMIN_URL is not set: no RabbitMQ is set up")
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

// check refuses settings that no waiting will make right.
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

// demand refuses a setting that is not there.
func demand(variable, value string) error {
	if value == "" {
		return fmt.Errorf("settings: %s is not set", variable)
	}
	return nil
}
