// Package accounts stores users, sessions, sign-in attempts and audit entries in MySQL, MariaDB or TiDB. Its errors
// wrap problem.Unavailable if the database is unavailable, busy or not set up.
package accounts

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// MaxConns is the maximum number of connections of one Store. A function with max-scale replicas can therefore open
	// up to max-scale × MaxConns connections.
	MaxConns = 4
	// connLifetime is the maximum age of a connection. It is short, so that the process soon switches to the
	// database server's new address if the address changes.
	connLifetime = 3 * time.Minute
	connIdleTime = 45 * time.Second
	// callTimeout is how long each query or transaction may take, including the wait for a connection.
	callTimeout = 8 * time.Second
)

// Store provides access to the accounts, sessions, sign-in attempts and audit entries in a database. It is safe for
// concurrent use.
type Store struct {
	db      *sql.DB
	now     func() time.Time
	lockout *lockout
	// random returns a random number below n. It decides when expired rows are deleted. A counter would not work,
	// because a process can end before the counter reaches purgeEvery.
	random func(n int) int
	notes  sync.WaitGroup // the calls of noteLocked
}

// Open returns a Store for the database that dsn names. The format of dsn is the DSN format of
// github.com/go-sql-driver/mysql. Open validates dsn, but does not connect to the database.
func Open(dsn string, clock func() time.Time) (*Store, error) {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	db, err := openDB(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, now: clock, random: rand.IntN}
	s.lockout = &lockout{counters: counterTable{s}, now: clock, gate: newGate(knownRule().failures), locked: s.noteLocked}
	return s, nil
}

func openDB(cfg *mysql.Config) (*sql.DB, error) {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("open the account store: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(MaxConns)
	db.SetMaxIdleConns(MaxConns)
	db.SetConnMaxLifetime(connLifetime)
	db.SetConnMaxIdleTime(connIdleTime)
	return db, nil
}

// Close waits for the entries that noteLocked adds, and closes all connections.
func (s *Store) Close() error {
	s.notes.Wait()
	return s.db.Close()
}

// User is an account.
type User struct {
	ID           string // UUIDv7
	Username     string // in canonical form
	PasswordHash string // in a format that package password supports
	Role         string // token.RoleUser or token.RoleAdmin
	Disabled     bool
	// MustChangePassword is true if another person than the user has chosen or seen the password. The user must then
	// choose a new password at the next sign-in.
	MustChangePassword bool
	// PasswordExpiresAt is the time after which the user cannot sign in with the password, or zero. It is set if an admin
	// has set the password.
	PasswordExpiresAt time.Time
	TokenVersion      int // sessions and access tokens with another version are invalid
	CreatedAt         time.Time
	UpdatedAt         time.Time
	SecondFactor      bool // the role requires a second factor
	HasPasskey        bool
}

// initialPasswordLife is how long the user can sign in with a password that an admin has set (ASVS 4.0.3, 2.3.1). An
// admin hands over such a password, so another person might read it. Seven days are enough for a user who works once
// a week.
const initialPasswordLife = 7 * 24 * time.Hour

// PasswordExpired reports whether the user cannot sign in with the password because it has expired.
func (u User) PasswordExpired(now time.Time) bool {
	return !u.PasswordExpiresAt.IsZero() && !now.Before(u.PasswordExpiresAt)
}

// ByUsername returns the user with the given user name, which does not have to be in canonical form. The error is a
// problem.NotFound if the user does not exist.
func (s *Store) ByUsername(ctx context.Context, username string) (User, error) {
	name, err := CanonicalUsername(username)
	if err != nil {
		return User{}, problem.NotFound.Because(err, "no such user")
	}
	return s.find(ctx, "find user by name", "username = ?", name)
}

// find returns the user that matches an SQL condition, or errNoUser if no user matches. The value replaces the
// condition's placeholder.
func (s *Store) find(ctx context.Context, action, condition string, value any) (u User, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		u, err = scanUser(s.db.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE `+condition, value))
		return err
	})
	return u, fail(action, err)
}

// ReplaceHash replaces a user's stored password hash with newHash. The error is a problem.Conflict if the stored hash
// differs from oldHash, because replacing the stored hash would then undo a password change.
func (s *Store) ReplaceHash(ctx context.Context, id, oldHash, newHash string) error {
	key, err := uuid.Parse(id)
	if err != nil {
		return fmt.Errorf("replace password hash of user %q: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result, err := s.db.ExecContext(ctx, `UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ? AND password_hash = ?`,
		newHash, s.timestamp(), key[:], oldHash)
	if err != nil {
		return fail("replace password hash of user "+id, timedOut(ctx, err))
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return problem.Conflict.Because(err, "the password was changed in the meantime")
	}
	return nil
}

// read runs a query. If the query fails because its connection is broken, the query runs once more, so it must be
// idempotent.
func (s *Store) read(ctx context.Context, query func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := query(ctx)
	if lostConnection(err) {
		err = query(ctx)
	}
	return timedOut(ctx, err)
}

// timestamp returns the current time in UTC, truncated to 1 µs, which is the resolution of times in the database.
func (s *Store) timestamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }
