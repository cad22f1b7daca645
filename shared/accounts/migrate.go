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
	provider, err := goose.NewProvider(goose.DialectMySQL, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	// The lock is ours and not goose's: goose looks for what is to be done before it takes its own, and then stumbles
	// over the table of versions that another process is just making.
	err = withLock(ctx, db, cfg.DBName, func(*sql.Conn) error {
		done, err := provider.Up(ctx)
		for _, m := range done {
			slog.InfoContext(ctx, "migrated", "database", cfg.DBName, "version", m.Source.Version, "duration_ms", m.Duration.Milliseconds())
		}
		return err
	})
	return fail("migrate the account store", err)
}

// lockPoll is how many seconds GET_LOCK waits at most; it must be less than a connection's read timeout.
const lockPoll = 2

// withLock calls do with a connection that holds a lock of the whole server, for changes of database. It waits for the
// lock until ctx ends.
func withLock(ctx context.Context, db *sql.DB, database string, do func(conn *sql.Conn) error) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// This fits the 64 characters that a lock's name may have, whatever the database's is.
	name := fmt.Sprintf("strongroom.%x", sha256.Sum256([]byte(database)))[:48]
	for {
		var taken sql.NullInt64
		err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(?, ?)`, name, lockPoll).Scan(&taken)
		if err != nil && !conflicted(err) { // TiDB's locks are rows of a table
			return fmt.Errorf("take the lock for changes of %s: %w", database, err)
		}
		if taken.Int64 == 1 {
			break
		}
		slog.InfoContext(ctx, "another process is changing the database; waiting for it", "database", database)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		var held sql.NullInt64
		if unlockErr := conn.QueryRowContext(ctx, `SELECT RELEASE_LOCK(?)`, name).Scan(&held); unlockErr != nil || held.Int64 != 1 {
			// The connection broke: the server gave the lock to somebody else meanwhile.
			err = errors.Join(err, problem.Unavailable.Because(unlockErr, "the lock for changes of the database was lost"))
		}
	}()
	return do(conn)
}
