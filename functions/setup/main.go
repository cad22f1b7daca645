// Command setup is the Job that brings the stores into shape: tables and the runtime user in MySQL, the runtime user
// and indexes in MongoDB, the topology in RabbitMQ, the first users. It may run any number of times, also side by
// side: what is there already stays as it is.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// DSN is of the runtime user of MySQL, which is made if AdminDSN is given. Users are made with its rights.
	DSN string `env:"MYSQL_DSN,required,notEmpty,unset"`
	// AdminDSN is of a MySQL user that may make databases, tables and users. Without it DSN's user must be able to
	// make the tables.
	AdminDSN string `env:"MYSQL_ADMIN_DSN,unset"`
	// MongoURI is of the runtime user of MongoDB, which is made if MongoAdminURI is given. The indexes are made with its
	// rights.
	MongoURI string `env:"MONGODB_URI,required,notEmpty,unset"`
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

// setup prepares each store as soon as it answers, whether or not the others do. Wrong settings it tells at once.
func setup(ctx context.Context, cfg config, args []string) error {
	if len(args) > 0 {
		return errors.New("setup takes no arguments: it is told by its environment")
	}
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
