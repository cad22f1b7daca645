package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// patience is the time limit for the setup of all stores, including the wait until the stores are available and until
// MongoDB has built the indexes. It is long, because a new cluster must first pull the stores' container images.
const patience = 5 * time.Minute

// prepare checks the settings, and then sets up all stores concurrently, so that an unavailable store does not delay
// the setup of the other stores.
func prepare(ctx context.Context, cfg config) error {
	policy, err := cfg.Policy()
	if err != nil {
		return err
	}
	if err := cfg.checkUsers(); err != nil {
		return err
	}
	if err := cfg.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	steps := map[string]func(ctx context.Context) error{
		"MySQL":   func(ctx context.Context) error { return setUpMySQL(ctx, cfg, policy) },
		"MongoDB": func(ctx context.Context) error { return setUpMongoDB(ctx, cfg) },
	}
	if cfg.EventsURL == "" {
		slog.InfoContext(ctx, "EVENTS_ADMIN_URL_FILE is not set, so setup does not declare exchanges and queues in RabbitMQ")
	} else {
		steps["RabbitMQ"] = func(ctx context.Context) error { return events.DeclareTopology(ctx, string(cfg.EventsURL)) }
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

// check returns an error if a required setting is not set, or if MYSQL_DSN_FILE, MONGODB_URI_FILE or
// MONGODB_ADMIN_URI_FILE is malformed. The other settings are checked where setup uses them.
func (cfg config) check() error {
	if err := errors.Join(demand("MYSQL_DSN_FILE", string(cfg.DSN)), demand("MONGODB_URI_FILE", string(cfg.MongoURI))); err != nil {
		return err
	}
	return withStore("MYSQL_DSN_FILE", string(cfg.DSN), openAccounts, func(*accounts.Store) error {
		_, err := mongoURI("MONGODB_URI_FILE", string(cfg.MongoURI))
		if err == nil && cfg.MongoAdminURI != "" {
			_, err = mongoURI("MONGODB_ADMIN_URI_FILE", string(cfg.MongoAdminURI))
		}
		return err
	})
}

func openAccounts(dsn string) (*accounts.Store, error) { return accounts.Open(dsn, time.Now) }

// demand returns an error if the environment variable's value is empty. The error contains the variable's name.
func demand(variable, value string) error {
	if value == "" {
		return fmt.Errorf("settings: %s is not set", variable)
	}
	return nil
}

// setUpMySQL migrates the tables in MySQL and creates the first Strongroom users. If MYSQL_ADMIN_DSN_FILE is set, it
// also creates or updates the functions' MySQL user.
func setUpMySQL(ctx context.Context, cfg config, policy password.Policy) (err error) {
	if cfg.AdminDSN == "" {
		slog.InfoContext(ctx, "MYSQL_ADMIN_DSN_FILE is not set, so setup migrates the tables as the user in MYSQL_DSN_FILE and does not create a MySQL user")
		err = accounts.Refused("MYSQL_ADMIN_DSN_FILE is not set, and the tables cannot be migrated: MYSQL_DSN_FILE", accounts.Migrate(ctx, string(cfg.DSN)))
		if err == nil {
			if excess := accounts.CheckAppendOnly(ctx, string(cfg.DSN)); excess != nil {
				slog.WarnContext(ctx, "the MySQL user of the functions has privileges that the functions do not need (docs/stores.md)", "error", excess)
			}
		}
	} else {
		err = accounts.Provision(ctx, string(cfg.AdminDSN), string(cfg.DSN))
	}
	if err != nil {
		return err
	}
	return withStore("MYSQL_DSN_FILE", string(cfg.DSN), openAccounts, func(store *accounts.Store) error {
		return accounts.Refused("MYSQL_DSN_FILE", createUsers(ctx, cfg, store, password.NewHasher(1, patience), policy))
	})
}

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
)

// untrusted reports whether a store has no TLS, or a certificate that is not trusted.
func untrusted(err error) bool {
	// The MongoDB driver does not wrap the tls.CertificateVerificationError, so look for the beginning of its text.
	return errors.Is(err, mysql.ErrNoTLS) || strings.Contains(err.Error(), "tls: failed to verify certificate")
}

// await calls step, which sets up a store. If step returns a problem.Unavailable, await retries until ctx is done.
// It does not retry after other errors, or if untrusted reports true, because waiting does not help.
func await(ctx context.Context, store string, step func(ctx context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := step(ctx)
		if err == nil {
			slog.InfoContext(ctx, "store is set up", "store", store)
			return nil
		}
		if !errors.Is(err, problem.Unavailable) || untrusted(err) {
			return fmt.Errorf("set up %s: %w", store, err)
		}
		slog.InfoContext(ctx, "waiting until the store is available", "for", store, "pause_ms", pause.Milliseconds(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("set up %s: gave up waiting for the store: %w", store, err)
		}
	}
}
