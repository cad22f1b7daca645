package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
)

// setUpMySQL migrates the tables in MySQL, and creates the given users of Strongroom. If MYSQL_ADMIN_DSN is set, it also
// creates or updates the MySQL runtime user.
func setUpMySQL(ctx context.Context, cfg config, users []seed) (err error) {
	if cfg.AdminDSN == "" {
		slog.InfoContext(ctx, "MYSQL_ADMIN_DSN is not set, so setup migrates the tables as the user in MYSQL_DSN and does not create a MySQL user")
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
