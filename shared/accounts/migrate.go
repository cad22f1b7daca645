package accounts

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateTimeout is how long one statement of a migration may take.
const migrateTimeout = 10 * time.Minute

// Migrate brings the tables of the database that dsn names up to date. Any number may run at once: one does the work,
// the others wait for it until ctx ends.
func Migrate(ctx context.Context, dsn string) error {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	return migrate(ctx, cfg)
}

func migrate(ctx context.Context, cfg *mysql.Config) (err error) {
	cfg = cfg.Clone()
	cfg.ReadTimeout = max(cfg.ReadTimeout, migrateTimeout)
	db, err := openDB(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("find the migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectMySQL, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithSessionLocker(serverLock(cfg.DBName)))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	done, err := provider.Up(ctx)
	for _, m := range done {
		slog.InfoContext(ctx, "migrated", "database", cfg.DBName, "version", m.Source.Version, "duration_ms", m.Duration.Milliseconds())
	}
	return fail("migrate the account store", err)
}

// serverLock is a lock of the whole server, which the connection holds that took it.
type serverLock string

// lockPoll is how many seconds GET_LOCK waits at most; it must be less than a connection's read timeout.
const lockPoll = 2

// SessionLock waits for the lock until ctx ends.
func (l serverLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var taken sql.NullInt64
		if err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(?, ?)`, l.name(), lockPoll).Scan(&taken); err != nil {
			return fmt.Errorf("take the lock for changing %s: %w", string(l), err)
		}
		if taken.Int64 == 1 {
			return nil
		}
		slog.InfoContext(ctx, "another process is changing the database; waiting for it", "database", string(l))
	}
}

// SessionUnlock gives the lock back.
func (l serverLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := conn.ExecContext(ctx, `DO RELEASE_LOCK(?)`, l.name())
	return err
}

// name fits the 64 characters that a lock's name may have, whatever the database's is.
func (l serverLock) name() string {
	return fmt.Sprintf("strongroom.%x", sha256.Sum256([]byte(l)))[:48]
}
