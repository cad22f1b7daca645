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
	// userWidth is the maximum number of concurrent login attempts for one user name in one process. It is larger than
	// the number of passwords that a process hashes at the same time, so that it does not slow down the hashing. It is
	// smaller than userLimit, so that the attempts in one process do not keep other replicas from admitting attempts.
	userWidth = 24
	// reserveConns is the maximum number of connections that a process uses at the same time to reserve login
	// attempts. The remaining connections are for recording outcomes. Without them, attempts that wait for an outcome
	// could occupy every connection and prevent the outcome from being recorded.
	reserveConns = maxConns / 2
	// A login attempt that waits for the outcomes of other attempts polls the database, because another replica might
	// record those outcomes. The polling interval starts at firstPoll and doubles with each poll, up to maxPoll.
	firstPoll = 10 * time.Millisecond
	maxPoll   = 320 * time.Millisecond
	// maxConflicts is how many times a transaction may run if it keeps conflicting with other transactions.
	maxConflicts = 10
	// After every purgeEvery-th login attempt, up to purgeRows expired counters are deleted. purgeEvery attempts create
	// at most 2*purgeEvery counters, which is less than purgeRows, so expired counters do not accumulate. The same
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

// Settle is a function that records the outcome of a login attempt. It must be called exactly once, because an attempt
// without an outcome counts as a failure, and because a second call would record an outcome for another attempt.
type Settle func(ctx context.Context, outcome Outcome) error

// settleTimeout is how long Settle.Record may take to record the outcome of a login attempt.
const settleTimeout = 5 * time.Second

// Record records the outcome even if ctx is canceled because the client has disconnected. Otherwise, the attempt would
// count as a failure. If recording the outcome fails, Record only logs the error, because the response to the client
// does not depend on the record.
func (settle Settle) Record(ctx context.Context, outcome Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := settle(ctx, outcome); err != nil {
		slog.WarnContext(ctx, "could not record the outcome of a login attempt, so the attempt counts as failed", "error", err)
	}
}

// Reserve admits and counts a login attempt for a user name from a client address. The user does not have to exist. If
// the error is nil, the caller must compare the password and then call the returned Settle function.
//
// Reserve limits the consecutive failures for a user name to 5 from one address and to 100 from all addresses
// together. All IPv6 addresses in a /64 prefix count as one address. After a limit is reached, Reserve admits one
// attempt at a time, and only after a delay. The delay grows with each failure, from 1 s to 15 min. During the delay,
// the error is a problem.TooManyAttempts with a Retry-After header.
//
// An attempt counts as a failure until its outcome is recorded. If a limit is reached while earlier attempts have no
// outcome, Reserve waits for their outcomes. Parallel guesses therefore cannot exceed a limit, even if they arrive at
// several replicas, but parallel sign-ins with the correct password all succeed. If the wait takes too long, the error
// is a problem.Unavailable.
//
// If the user name is invalid, the error is a problem.Unprocessable. Reserve measures delays with the clock of its
// process, so if the clocks of two replicas differ, a delay can be shorter or longer by that difference.
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
	if s.reservations.Add(1)%purgeEvery == 0 {
		s.purge(ctx)
	}
	return func(ctx context.Context, outcome Outcome) error {
		defer leave()
		return fail("record the outcome of the login attempt", s.settle(ctx, key, outcome))
	}, nil
}

// enter limits the number of login attempts in progress in this process, per user name and per pair of user name and
// address. If a limit is reached, enter waits until another attempt finishes. The caller must call leave when its
// attempt is finished.
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

// admit waits until the counters in the database allow another attempt, and then reserves the attempt. The error is a
// problem.TooManyAttempts if the address or the user name is blocked, and a problem.Unavailable if ctx is done first.
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
			return problem.TooManyAttempts.With("try again later").RetryAfter(until.Sub(s.now()))
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return problem.Unavailable.Because(ctx.Err(), "too many concurrent sign-ins with this user name: try again later")
		}
	}
}

// sleep waits until the duration d has passed or ctx is done. It reports whether it has waited for the whole duration.
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

// attemptKey identifies the two database rows that count an attempt. The row for the attempt's address has the primary
// key (subject, address), where subject stands for the user name. The row for all addresses has the key (subject, "").
type attemptKey struct {
	subject [sha256.Size]byte // the SHA-256 hash of the canonical user name
	address string
}

// addressKey returns the key under which failures from an address are counted. The key for an IPv6 address is its /64
// prefix, because a client that has one address in a /64 prefix can usually use all addresses in that prefix.
func addressKey(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}

// count runs a transaction that locks two login attempt counters for the user name in key: one for the client address
// in key, and one for all addresses. It calls the function change with both counters. If change returns true, count
// stores the counters. If the transaction conflicts with other transactions, count runs it again after a backoff, which
// grows with each try.
//
// A process runs only one such transaction at a time per user name, because several transactions would occupy several
// connections while they wait for the same rows. The limiter conns limits how many of these transactions run at the
// same time for all user names together.
func (s *Store) count(ctx context.Context, key attemptKey, conns *gate, change func(one, all *counter, now time.Time) (changed bool)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
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
	// Insert rows that do not exist yet before locking the rows, because locking a nonexistent row does not stop other
	// transactions from inserting it. All transactions insert the rows in primary key order, which prevents deadlocks.
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

// purge deletes expired login attempt counters. If the deletion fails, purge only logs the error, because the sign-in
// does not depend on the deletion, and a later sign-in calls purge again.
func (s *Store) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM login_attempts WHERE touched_at < ? ORDER BY touched_at LIMIT ?`,
		s.timestamp().Add(-forgetAfter), purgeRows)
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired login attempts", "error", err)
	}
}
