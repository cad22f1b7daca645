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
	// attemptWait bounds how long an attempt waits for others on the same user name.
	attemptWait = 8 * time.Second
	// userWidth is how many attempts on one user name a process makes at once: more than it can compute hashes, and few
	// enough that userLimit lets those of several replicas through.
	userWidth = 24
	// reserveConns is how many of the connections attempts are reserved on, so that the others are left for what ends
	// them: whatever waits for those under way must not hold them up.
	reserveConns = maxConns / 2
	// Attempts of another replica are asked after with growing pauses.
	firstPoll = 10 * time.Millisecond
	maxPoll   = 320 * time.Millisecond
	// maxConflicts is how often a transaction is tried that collides with others, with growing pauses.
	maxConflicts = 10
	// One reservation in purgeEvery deletes up to purgeRows counters that have run out: more than as many
	// reservations can have made, so the table holds what a day brings.
	purgeEvery = 100
	purgeRows  = 1000
)

// Outcome is what became of a login attempt.
type Outcome int

const (
	Undecided Outcome = iota // nothing was compared
	Failed
	Succeeded
)

// Settle notes the outcome of an attempt that was reserved. It must be called exactly once.
type Settle func(ctx context.Context, outcome Outcome) error

// Reserve takes one attempt on a user name, whether or not it exists, from an address. Its caller compares the
// password only if there is no error, and then settles the attempt. At most 5 failures in a row are let through from
// one address (of IPv6, one /64) and 100 from all together; after that one at a time, after a wait that grows from 1 s
// to 15 min: till then the error is a problem.TooManyAttempts that says when to come back. Attempts at the same time
// count as failures until they are settled, and further ones wait for them: so the limits hold for parallel guesses on
// several replicas, and parallel logins with the right password all pass.
//
// Times are those of the Store's clock; replicas whose clocks differ block for that much longer or shorter.
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
		return nil, problem.Unavailable.Because(err, "too many sign-ins of this user at once")
	}
	if err := s.admit(wait, key); err != nil {
		leave()
		return nil, fail("reserve a login attempt", err)
	}
	if s.reservations.Add(1)%purgeEvery == 0 {
		s.purge(ctx)
	}
	return func(ctx context.Context, outcome Outcome) error {
		defer leave()
		return fail("settle a login attempt", s.settle(ctx, key, outcome))
	}, nil
}

// enter waits for this process's own attempts on the same user name.
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

// admit reserves an attempt as soon as those under way allow it.
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
			return problem.Unavailable.Because(ctx.Err(), "too many sign-ins of this user at once")
		}
	}
}

// sleep waits for d. It tells whether there is time left in ctx.
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

// attemptKey names the two counters of an attempt: (subject, address) and (subject, "").
type attemptKey struct {
	subject [sha256.Size]byte
	address string
}

// addressKey is what an address is counted under. Who has one IPv6 address has all of its /64.
func addressKey(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}

// count runs change on the counter of the address and that of all addresses, locked against everybody else, and stores
// them if it says so. The process makes one transaction on a user name at a time, because more would hold connections
// and wait for its rows, and of all together as many as conns lets in.
func (s *Store) count(ctx context.Context, key attemptKey, conns *gate, change func(one, all *counter, now time.Time) (changed bool)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leaveRows, err := s.rowsGate.enter(ctx, string(key.subject[:]))
	if err != nil {
		return problem.Unavailable.Because(err, "too many sign-ins of this user at once")
	}
	defer leaveRows()
	leaveConns, err := conns.enter(ctx, "")
	if err != nil {
		return problem.Unavailable.Because(err, "too many sign-ins at once")
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
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing; before, its caller has the error that matters
	subject, now := key.subject[:], s.timestamp()
	// First the rows must be there: a lock on a row that is not does not keep others from inserting it. The order of
	// the primary key keeps two transactions from waiting for each other.
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
	defer func() { _ = rows.Close() }() // Err has told what went wrong
	counters := map[string]counter{}
	for rows.Next() {
		var address string
		var c counter
		var blockedUntil sql.NullTime
		if err := rows.Scan(&address, &c.failures, &c.pending, &blockedUntil, &c.touchedAt); err != nil {
			return nil, fmt.Errorf("read a counter: %w", err)
		}
		c.blockedUntil = blockedUntil.Time
		counters[address] = c
	}
	return counters, rows.Err()
}

func nullTime(t time.Time) sql.NullTime { return sql.NullTime{Time: t, Valid: !t.IsZero()} }

// purge deletes counters that have run out. That it fails is no reason to refuse a login: the next one tries again.
func (s *Store) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM login_attempts WHERE touched_at < ? ORDER BY touched_at LIMIT ?`,
		s.timestamp().Add(-forgetAfter), purgeRows)
	if err != nil {
		slog.WarnContext(ctx, "old login attempts stay for now", "error", err)
	}
}
