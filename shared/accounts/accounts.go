// Package accounts keeps users, their login attempts and the audit trail in MySQL (or MariaDB, or TiDB).
//
// Its errors wrap a kind of package problem where the cause is known: problem.Unavailable when the store is away, busy
// or not set up yet, problem.NotFound, problem.Conflict. Every call is bounded in time.
package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// maxConns is a replica's share of the server's connections: max-scale × maxConns must stay within its limit.
	maxConns = 4
	// connLifetime lets connections follow a server that moved; idle ones go sooner.
	connLifetime = 3 * time.Minute
	connIdleTime = 45 * time.Second
	// callTimeout bounds each call, waiting for a connection included.
	callTimeout = 8 * time.Second
)

// Store is the account store of one database. It is safe for concurrent use.
type Store struct {
	db           *sql.DB
	now          func() time.Time
	addressGate  *gate // attempts, per user name and address
	userGate     *gate // attempts, per user name
	rowsGate     *gate // transactions on counters, per user name
	reserveGate  *gate // transactions that reserve
	settleGate   *gate // transactions that settle
	reservations atomic.Uint64
	// sessionsStarted tells when it is time to delete expired ones.
	sessionsStarted atomic.Uint64
}

// Option changes how a Store works.
type Option func(*Store)

// WithClock makes a Store tell time by now.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open returns the store that dsn, a data source name of go-sql-driver, points to. It checks and completes dsn but
// connects only when it is used.
func Open(dsn string, options ...Option) (*Store, error) {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	db, err := openDB(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db: db, now: time.Now, addressGate: newGate(addressLimit), userGate: newGate(userWidth),
		rowsGate: newGate(1), reserveGate: newGate(reserveConns), settleGate: newGate(maxConns),
	}
	for _, option := range options {
		option(s)
	}
	return s, nil
}

func openDB(cfg *mysql.Config) (*sql.DB, error) {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("open the account store: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxLifetime(connLifetime)
	db.SetConnMaxIdleTime(connIdleTime)
	return db, nil
}

// Close closes all connections.
func (s *Store) Close() error { return s.db.Close() }

// User is an account.
type User struct {
	ID           string // UUIDv7
	Username     string // canonical
	PasswordHash string // a PHC string
	Role         string // token.RoleUser or token.RoleAdmin
	Disabled     bool
	TokenVersion int // tokens with a lower one are void
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// ByUsername returns the user of that name, which need not be canonical, or a problem.NotFound.
func (s *Store) ByUsername(ctx context.Context, username string) (User, error) {
	name, err := CanonicalUsername(username)
	if err != nil {
		return User{}, problem.NotFound.Because(err, "there is no such user")
	}
	var u User
	err = s.read(ctx, func(ctx context.Context) (err error) {
		u, err = scanUser(s.db.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE username = ?`, name))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, errNoUser
	}
	if err != nil {
		return User{}, fail("find a user", err)
	}
	return u, nil
}

// Create makes a user with a new id, on behalf of setup. A name that is taken is a problem.Conflict, one that may not
// be, and an unknown role, a problem.Unprocessable.
func (s *Store) Create(ctx context.Context, username, passwordHash, role string) (User, error) {
	u, err := s.newUser(username, passwordHash, role)
	if err != nil {
		return User{}, err
	}
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.insert(ctx, tx, setup, u) })
	if err != nil {
		return User{}, fail("create a user", err)
	}
	return u, nil
}

// ReplaceHash gives a user the password hash next if the one that is stored is still old; otherwise it is a
// problem.Conflict.
func (s *Store) ReplaceHash(ctx context.Context, id, old, next string) error {
	key, err := uuid.Parse(id)
	if err != nil {
		return fmt.Errorf("replace a password hash: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result, err := s.db.ExecContext(ctx, `UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ? AND password_hash = ?`,
		next, s.timestamp(), key[:], old)
	if err != nil {
		return fail("replace a password hash", timedOut(ctx, err))
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return problem.Conflict.Because(err, "the password has changed meanwhile")
	}
	return nil
}

// read runs an idempotent query, and once more where its connection turned out to be dead.
func (s *Store) read(ctx context.Context, query func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := query(ctx)
	if lostConnection(err) {
		err = query(ctx)
	}
	return timedOut(ctx, err)
}

// timestamp is the time in the resolution that is stored.
func (s *Store) timestamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }
