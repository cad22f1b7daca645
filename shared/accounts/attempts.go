package accounts

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// attemptWait is how long a login attempt may wait for the outcomes of other attempts for the same user name.
	attemptWait = 8 * time.Second
	// userWidth is the maximum number of concurrent login attempts for one user name in a process. This limit does
	// not delay hashing, because it exceeds the number of passwords that the process hashes concurrently.
	userWidth = 24 // below userLimit, so that other replicas can still admit attempts
	// reserveConns is the maximum number of connections for reserving login attempts. The remaining connections stay
	// free for recording outcomes. Otherwise, attempts that wait for an outcome could occupy all connections, and the
	// outcome could not be recorded.
	reserveConns = MaxConns / 2
	// A login attempt that waits for other attempts polls the database, because another replica might record their
	// outcomes. The polling interval doubles from firstPoll to maxPoll.
	firstPoll = 10 * time.Millisecond
	maxPoll   = 320 * time.Millisecond
	// maxConflicts is how many times a transaction may run in total if it keeps conflicting with other transactions.
	maxConflicts = 10
	// On average, every purgeEvery-th login attempt deletes up to purgeRows expired counters. purgeRows exceeds the
	// 2*purgeEvery counters that purgeEvery attempts can create, so expired counters do not accumulate. The same
	// constants apply to expired sessions.
	purgeEvery = 100
	purgeRows  = 1000
)

// Outcome is the result of a login attempt.
type Outcome int

const (
	Undecided Outcome = iota // no password was compared
	Failed
	Succeeded
)

// Settle records the outcome of a login attempt. It must be called exactly once, because a missing outcome counts
// as a failure, and a second call would count as the outcome of another attempt.
type Settle func(ctx context.Context, outcome Outcome) error

// settleTimeout is how long Settle.Record may take to record the outcome of a login attempt.
const settleTimeout = 5 * time.Second

// Record calls settle even if ctx is canceled, because a missing outcome counts as a failure. It logs errors instead
// of returning them, because the response does not depend on whether the outcome was recorded.
func (settle Settle) Record(ctx context.Context, outcome Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := settle(ctx, outcome); err != nil {
		slog.WarnContext(ctx, "could not record the outcome of a login attempt, so the attempt counts as failed", "error", err)
	}
}

// Reserve admits and counts a login attempt, even if the user does not exist. The caller must then compare the
// password and call the returned Settle function. The error is a problem.TooManyAttempts after too many failures,
// and a problem.Unprocessable if the user name is invalid.
func (s *Store) Reserve(ctx context.Context, username string, address netip.Addr) (Settle, error) {
	name, err := CanonicalUsername(username)
	if err != nil {
		return nil, err
	}
	key := attemptKey{sha256.Sum256([]byte(name)), addressKey(address)}
	wait, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	leave, err := s.enter(wait, key)
	if err != nil {
		return nil, problem.Unavailable.Because(err, "too many concurrent sign-ins with this user name: try again later")
	}
	if err := s.admit(wait, key); err != nil {
		leave()
		return nil, fail("reserve login attempt", err)
	}
	if s.random(purgeEvery) == 0 {
		s.purge(ctx)
	}
	return func(ctx context.Context, outcome Outcome) error {
		defer leave()
		return fail("record the outcome of the login attempt", s.settle(ctx, key, outcome))
	}, nil
}

// enter waits until this process has capacity for another login attempt with this user name and address. The
// caller must call leave when its attempt is finished.
func (s *Store) enter(ctx context.Context, key attemptKey) (leave func(), err error) {
	leaveAddress, err := s.addressGate.enter(ctx, string(key.subject[:])+key.address)
	if err != nil {
		return nil, err
	}
	leaveUser, err := s.userGate.enter(ctx, string(key.subject[:]))
	if err != nil {
		leaveAddress()
		return nil, err
	}
	return func() {
		leaveUser()
		leaveAddress()
	}, nil
}

// admit waits until the counters in the database allow another attempt, and then reserves the attempt. The error
// is a problem.TooManyAttempts if the address or the user name is blocked.
func (s *Store) admit(ctx context.Context, key attemptKey) error {
	for pause := firstPoll; ; pause = min(2*pause, maxPoll) {
		var until time.Time
		var found verdict
		err := s.count(ctx, key, s.reserveGate, func(one, all *counter, now time.Time) (changed bool) {
			found = max(one.judge(now, addressLimit), all.judge(now, userLimit))
			if found == blocked && one.blockedUntil.After(all.blockedUntil) {
				until = one.blockedUntil
			} else {
				until = all.blockedUntil
			}
			if found != admitted {
				return false
			}
			*one, *all = one.reserve(now), all.reserve(now)
			return true
		})
		if err != nil {
			return err
		}
		switch found {
		case admitted:
			return nil
		case blocked:
			// If another replica set blockedUntil, the delay can be too short or too long by the difference between
			// the two replicas' clocks.
			return problem.TooManyAttempts.With("try again later").RetryAfter(until.Sub(s.now()))
		}
		// Wait for the outcomes of earlier attempts instead of rejecting this attempt, so that parallel sign-ins
		// with the correct password all succeed.
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return problem.Unavailable.Because(ctx.Err(), "too many concurrent sign-ins with this user name: try again later")
		}
	}
}

// sleep waits until the duration d has passed or ctx is done. It reports whether the duration has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (s *Store) settle(ctx context.Context, key attemptKey, outcome Outcome) error {
	return s.count(ctx, key, s.settleGate, func(one, all *counter, now time.Time) (changed bool) {
		switch outcome {
		case Failed:
			*one, *all = one.fail(now, addressLimit), all.fail(now, userLimit)
		case Succeeded:
			own := one.failures
			*one, *all = one.succeed(own, addressLimit), all.succeed(own, userLimit)
		default:
			*one, *all = one.release(), all.release()
		}
		return true
	})
}

// attemptKey identifies the two counters for a login attempt. Their primary keys are (subject, address) for the
// client's address and (subject, "") for all addresses together.
type attemptKey struct {
	subject [sha256.Size]byte // the SHA-256 hash of the canonical user name
	address string
}

// addressKey returns the counter key for a client address. For an IPv6 address, the key is the /64 prefix, because
// a client can usually use all addresses in its prefix.
func addressKey(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}

// count locks the two counters for a login attempt (see attemptKey) and passes them to the change function. It stores
// the counters if the change function returns true.
func (s *Store) count(ctx context.Context, key attemptKey, conns *gate, change func(one, all *counter, now time.Time) (changed bool)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Run one transaction at a time per user name, because concurrent transactions would occupy several connections
	// while they wait for the same rows.
	leaveRows, err := s.rowsGate.enter(ctx, string(key.subject[:]))
	if err != nil {
		return problem.Unavailable.Because(err, "too many concurrent sign-ins with this user name: try again later")
	}
	defer leaveRows()
	leaveConns, err := conns.enter(ctx, "")
	if err != nil {
		return problem.Unavailable.Because(err, "too many concurrent sign-ins: try again later")
	}
	defer leaveConns()
	for try := 1; ; try++ {
		err := s.countOnce(ctx, key, change)
		if try == maxConflicts || !conflicted(err) || !sleep(ctx, rand.N(time.Duration(try)*firstPoll)) {
			return timedOut(ctx, err)
		}
	}
}

func (s *Store) countOnce(ctx context.Context, key attemptKey, change func(one, all *counter, now time.Time) (changed bool)) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// Ignore the error from Rollback. After a successful Commit, Rollback has no effect. In all other cases, this
	// function already returns an error, or it has no change to store.
	defer func() { _ = tx.Rollback() }()
	subject, now := key.subject[:], s.timestamp()
	// Insert missing rows before locking the rows, because a lock on a nonexistent row does not prevent other
	// transactions from inserting the row. Every transaction inserts the rows in primary key order, which prevents
	// deadlocks.
	if _, err := tx.ExecContext(ctx, `INSERT INTO login_attempts (subject, address, failures, pending, touched_at)
		VALUES (?, '', 0, 0, ?), (?, ?, 0, 0, ?) ON DUPLICATE KEY UPDATE failures = failures`,
		subject, now, subject, key.address, now); err != nil {
		return err
	}
	counters, err := readCounters(ctx, tx, key)
	if err != nil {
		return err
	}
	one, all := counters[key.address].at(now), counters[""].at(now)
	if !change(&one, &all, now) {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO login_attempts (subject, address, failures, pending, blocked_until, touched_at)
		VALUES (?, '', ?, ?, ?, ?), (?, ?, ?, ?, ?, ?)
		ON DUPLICATE KEY UPDATE failures = VALUES(failures), pending = VALUES(pending),
			blocked_until = VALUES(blocked_until), touched_at = VALUES(touched_at)`,
		subject, all.failures, all.pending, nullTime(all.blockedUntil), all.touchedAt,
		subject, key.address, one.failures, one.pending, nullTime(one.blockedUntil), one.touchedAt); err != nil {
		return err
	}
	return tx.Commit()
}

func readCounters(ctx context.Context, tx *sql.Tx, key attemptKey) (map[string]counter, error) {
	rows, err := tx.QueryContext(ctx, `SELECT address, failures, pending, blocked_until, touched_at FROM login_attempts
		WHERE subject = ? AND address IN ('', ?) FOR UPDATE`, key.subject[:], key.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err returns read errors
	counters := map[string]counter{}
	for rows.Next() {
		var address string
		var c counter
		var blockedUntil sql.NullTime
		if err := rows.Scan(&address, &c.failures, &c.pending, &blockedUntil, &c.touchedAt); err != nil {
			return nil, fmt.Errorf("read login attempt counter: %w", err)
		}
		c.blockedUntil = blockedUntil.Time
		counters[address] = c
	}
	return counters, rows.Err()
}

func nullTime(t time.Time) sql.NullTime { return sql.NullTime{Time: t, Valid: !t.IsZero()} }

// purge deletes expired login attempt counters. It only logs errors, because a later sign-in retries the deletion.
func (s *Store) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM login_attempts WHERE touched_at < ? ORDER BY touched_at LIMIT ?`,
		s.timestamp().Add(-forgetAfter), purgeRows)
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired login attempts", "error", err)
	}
}
