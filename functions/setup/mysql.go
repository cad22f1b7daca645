package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
)

// setUpMySQL makes the tables, the runtime user where there is an administrator to make it, and users.
func setUpMySQL(ctx context.Context, cfg config, users []seed) (err error) {
	if cfg.AdminDSN == "" {
		slog.InfoContext(ctx, "MYSQL_ADMIN_DSN is not set: the tables are made with MYSQL_DSN, and no MySQL user is")
		err = accounts.Migrate(ctx, cfg.DSN)
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
	return createUsers(ctx, store, password.NewHasher(1, patience), users)
}
