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

	"github.com/strongroom-dev/strongroom/shared/problem"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateTimeout is how long each statement in a migration may take. It is long, because changing a large table can
// take several minutes.
const migrateTimeout = 10 * time.Minute

// Migrate applies all pending migrations to the database that dsn names. If several processes call it at the same
// time, one process applies the migrations and the others wait.
func Migrate(ctx context.Context, dsn string) error {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	return migrate(ctx, cfg, goose.MaxVersion)
}

// migrate applies the pending migrations up to the given version.
func migrate(ctx context.Context, cfg *mysql.Config, version int64) (err error) {
	cfg = cfg.Clone()
	cfg.ReadTimeout = max(cfg.ReadTimeout, migrateTimeout)
	db, err := openDB(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("open embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectMySQL, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read embedded migrations: %w", err)
	}
	// Use withLock instead of goose's own lock, because goose looks for pending migrations before it acquires that
	// lock, and can then fail if another process creates the version table at the same time.
	err = withLock(ctx, db, cfg.DBName, func(*sql.Conn) error {
		done, err := provider.UpTo(ctx, version)
		for _, m := range done {
			slog.InfoContext(ctx, "applied migration", "database", cfg.DBName, "version", m.Source.Version, "duration_ms", m.Duration.Milliseconds())
		}
		return err
	})
	return fail("migrate the account store", err)
}

// lockPoll is how long one GET_LOCK call waits for the lock, in seconds. It must be shorter than the connection's
// read timeout, because the server does not respond while the call waits.
const lockPoll = 2

// withLock acquires the server-wide lock for changes to a database, and calls the action function with the connection
// that holds the lock. It releases the lock when the action function returns.
func withLock(ctx context.Context, db *sql.DB, database string, action func(conn *sql.Conn) error) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// Hash the database name, so that the lock name never exceeds MySQL's limit of 64 characters.
	name := fmt.Sprintf("strongroom.%x", sha256.Sum256([]byte(database)))[:48]
	for {
		var taken sql.NullInt64
		err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(?, ?)`, name, lockPoll).Scan(&taken)
		// Retry if the error is a conflict. TiDB can report conflicts, because it implements GET_LOCK with rows in a
		// table.
		if err != nil && !conflicted(err) {
			return fmt.Errorf("acquire the lock for changes to database %s: %w", database, err)
		}
		if taken.Int64 == 1 {
			break
		}
		slog.InfoContext(ctx, "waiting for another process that is changing the database", "database", database)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		var held sql.NullInt64
		if unlockErr := conn.QueryRowContext(ctx, `SELECT RELEASE_LOCK(?)`, name).Scan(&held); unlockErr != nil || held.Int64 != 1 {
			// The connection broke, so the server released the lock. Return an error, because another process might
			// have changed the database at the same time.
			err = errors.Join(err, problem.Unavailable.Because(unlockErr, "lost the lock for changes to the database"))
		}
	}()
	return action(conn)
}
