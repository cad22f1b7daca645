package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
)

// setUpMySQL migrates the tables, creates the runtime user if it has an administrator to do so, and creates users.
func setUpMySQL(ctx context.Context, cfg config, users []seed) (err error) {
	if cfg.AdminDSN == "" {
		slog.InfoContext(ctx, "MYSQL_ADMIN_DSN is not set: setup migrates the tables with MYSQL_DSN and creates no MySQL user")
		err = accounts.Refused("MYSQL_DSN", accounts.Migrate(ctx, cfg.DSN))
	} else {
		err = accounts.Provision(ctx, cfg.AdminDSN, cfg.DSN)
	}
	if err != nil {
		return err
	}
	store, err := accounts.Open(cfg.DSN)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return accounts.Refused("MYSQL_DSN", createUsers(ctx, store, password.NewHasher(1, patience), users))
}
