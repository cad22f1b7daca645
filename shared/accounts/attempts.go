package accounts

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/strongroom-dev/strongroom/shared/password"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// attemptWait is how long an attempt may wait for the outcomes of other attempts of the same client.
	attemptWait = 8 * time.Second
	// settleTimeout is how long it may take to record the outcome of an attempt.
	settleTimeout = 5 * time.Second
	// An attempt that waits for other attempts polls the database, because another replica might record their outcomes.
	// The polling interval doubles from firstPoll to maxPoll.
	firstPoll = 10 * time.Millisecond
	maxPoll   = 320 * time.Millisecond
	// maxConflicts is how many times a transaction may run in total if it keeps conflicting with other transactions.
	maxConflicts = 10
	// On average, every purgeEvery-th attempt deletes up to purgeRows expired counters. purgeRows exceeds the
	// 4*purgeEvery counters that purgeEvery attempts can create, so expired counters do not accumulate. The same
	// constants apply to expired sessions.
	purgeEvery = 100
	purgeRows  = 1000
	// unlockRows is the maximum number of counters of unknown addresses that a transaction resets.
	unlockRows = 1000
)

// ErrBadCredentials reports that a user does not exist or is disabled, or that the password is wrong or expired. It
// is the same error for every reason, so that the response does not reveal the reason.
var ErrBadCredentials = problem.BadCredentials.With("check the user name and the password, and try again")

// Attempt is an attempt to prove that the client knows the password of an account.
type Attempt struct {
	Username string // does not have to be in canonical form
	Address  netip.Addr
	Device   string // a device token from Store.DeviceToken, or any other text if the client has none
}

// Attempt admits and counts an attempt, and calls compare at most once. compare reports whether the client knows the
// password of the user. If the user does not exist, compare gets a user without an ID, and with the password hash
// password.Dummy. If compare returns an error, the attempt is not counted, and Attempt returns the error.
//
// The error is ErrBadCredentials if the user does not exist or is disabled, or if the password is wrong or expired.
// It is a problem.TooManyAttempts, without a call of compare, after too many failures. With both errors, the returned
// user is only for the log. It has no ID if the user does not exist.
func (s *Store) Attempt(ctx context.Context, a Attempt, compare func(ctx context.Context, u User) (bool, error)) (User, error) {
	u, err := s.lockout.attempt(ctx, a, compare)
	if s.random(purgeEvery) == 0 {
		s.purge(ctx)
	}
	return u, fail("count sign-in attempt", err)
}

// lockout decides which attempts are admitted. See docs/security.md, "Password guessing", for the rules.
type lockout struct {
	counters counters
	now      func() time.Time
	key      []byte // for device tokens and hashes of user names
	gate     *gate  // limits concurrent attempts per user name and client
	// locked is called after an attempt from address has used up the budget of all strangers for the account.
	locked func(ctx context.Context, u User, address netip.Addr)
}

// counters stores the counters of attempts. It is implemented by counterTable, and by a test with counters in memory.
type counters interface {
	// load returns the user with the given name, and the counters for an attempt. The counter of a missing row is empty.
	load(ctx context.Context, username string, k attemptKeys) (found, error)
	// save stores counters atomically. The error is errChanged if the stored version of a counter that is not a bucket
	// is not the version before the given one. A bucket is filled by the difference between blockedUntil and touchedAt.
	save(ctx context.Context, changes []change) error
}

// errChanged reports that a counter has changed since it was loaded.
var errChanged = errors.New("the counter of sign-in attempts has changed")

// found contains the user and the counters for an attempt.
type found struct {
	user    User    // empty if the user does not exist
	device  counter // of the client's device, for the user
	address counter // of the client's address, for the user, if a sign-in from the address has succeeded
	pair    counter // of the client's address, for the user name, if the address is unknown
	// strangers is the bucket for the failures from all unknown addresses, for the user name. sprayed is the bucket for
	// the attempts from the client's address, for all user names.
	strangers, sprayed counter
}

// change is a new value for a counter.
type change struct {
	key counterKey
	counter
}

// reservation is an attempt that is admitted, but has no outcome yet.
type reservation struct {
	found
	keys    attemptKeys
	kind    clientKind
	rule    rule
	counted bool // whether the attempt fills the strangers bucket
}

// clientKind is how the client of an attempt is identified.
type clientKind int

const (
	stranger clientKind = iota
	knownAddress
	knownDevice
)

// budget returns the counter that limits the attempt, and its key.
func (r *reservation) budget() (*counter, counterKey) {
	switch r.kind {
	case knownDevice:
		return &r.device, r.keys.deviceOf(r.user)
	case knownAddress:
		return &r.address, r.keys.addressOf(r.user)
	default:
		return &r.pair, r.keys.pair
	}
}

// attempt implements Store.Attempt.
func (l *lockout) attempt(ctx context.Context, a Attempt, compare func(ctx context.Context, u User) (bool, error)) (u User, err error) {
	username, err := CanonicalUsername(a.Username)
	if err != nil {
		username = "" // no user has this name, so the attempt is the same as with an unknown user name
	}
	keys := l.keysOf(cmp.Or(username, a.Username), a)
	wait, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	// Wait in this process instead of polling the database with many attempts. The key contains the client, so that an
	// attempt never waits for attempts of other clients.
	leave, err := l.gate.enter(wait, keys.gate())
	if err != nil {
		return User{}, problem.Unavailable.Because(err, "too many concurrent sign-ins with this user name: try again later")
	}
	defer leave()
	r, err := l.reserve(wait, username, keys)
	if err != nil {
		return r.user, err
	}
	u = r.user
	if u.ID == "" {
		u.PasswordHash = password.Dummy
	}
	ok, err := compare(ctx, u)
	switch {
	case err != nil:
		l.settle(ctx, username, r, released)
		return User{}, err
	case !ok || u.ID == "" || u.Disabled || u.PasswordExpired(l.now()):
		l.settle(ctx, username, r, failed)
		// Call filled for unknown users, too, so that the response time does not reveal which users exist. Record no lockout
		// of an unknown user, because the name can be a mistyped password.
		if l.filled(ctx, username, r) && u.ID != "" {
			l.locked(ctx, u, a.Address)
		}
		return r.user, ErrBadCredentials
	}
	l.settle(ctx, username, r, succeeded)
	return u, nil
}

// filled reports whether the strangers bucket is full, but was not full before the attempt. It reads the bucket again
// only if the bucket was half full, because concurrent attempts can fill the other half.
func (l *lockout) filled(ctx context.Context, username string, r *reservation) bool {
	b := strangersBucket()
	if !r.counted || !(bucket{b.size / 2, b.interval}).full(r.strangers, l.timestamp()) {
		return false
	}
	f, err := l.counters.load(ctx, username, r.keys)
	if err != nil {
		slog.WarnContext(ctx, "could not check whether an account is locked", "user_id", r.user.ID, "error", err)
	}
	return err == nil && b.full(f.strangers, l.timestamp())
}

// reserve waits until the counters allow another attempt, and then counts the attempt. The error is a
// problem.TooManyAttempts if the client must wait longer. The reservation then contains the user.
func (l *lockout) reserve(ctx context.Context, username string, keys attemptKeys) (*reservation, error) {
	for pause := firstPoll; ; pause = min(2*pause, maxPoll) {
		f, err := l.counters.load(ctx, username, keys)
		if err != nil {
			return &reservation{}, err
		}
		now := l.timestamp()
		r := &reservation{found: f.at(now), keys: keys}
		switch decision, until := r.judge(now); decision {
		case blocked:
			// If another replica set the time, the delay can be too short or too long by the difference between the two
			// replicas' clocks.
			return r, problem.TooManyAttempts.With("try again later").RetryAfter(until.Sub(now))
		case admitted:
			err := l.counters.save(ctx, r.reserve(now))
			if err == nil {
				return r, nil
			}
			if !errors.Is(err, errChanged) && !conflicted(err) {
				return &reservation{}, err
			}
			pause = firstPoll
		}
		// Wait for the outcomes of earlier attempts instead of rejecting this attempt, so that parallel sign-ins
		// with the correct password all succeed.
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return &reservation{}, problem.Unavailable.Because(ctx.Err(), "too many concurrent sign-ins with this user name: try again later")
		}
	}
}

// at returns the counters' states at the given time.
func (f found) at(now time.Time) found {
	f.device, f.address, f.pair = f.device.at(now), f.address.at(now), f.pair.at(now)
	return f
}

// judge identifies the client, and decides whether to admit its attempt. until is the time to which a blocked client
// must wait.
func (r *reservation) judge(now time.Time) (decision verdict, until time.Time) {
	switch {
	case r.user.ID != "" && r.keys.deviceUser == r.user.ID:
		r.kind, r.rule = knownDevice, knownRule()
	case r.user.ID != "" && r.address.expiresAt.After(now):
		r.kind, r.rule = knownAddress, knownRule()
	case addressBucket().full(r.sprayed, now):
		return blocked, addressBucket().roomAt(r.sprayed)
	case strangersBucket().full(r.strangers, now):
		r.rule = scarceRule()
	default:
		r.rule = strangerRule()
	}
	budget, _ := r.budget()
	// The failures of an address that has used up its budget do not affect strangers at other addresses. Attempts while
	// the bucket is full do not fill it, so that it drains within about a day after an attack.
	r.counted = r.rule == strangerRule() && budget.failures+budget.pending < strangerRule().failures
	return budget.judge(now, r.rule), budget.blockedUntil
}

// reserve counts the attempt, and returns the changed counters.
func (r *reservation) reserve(now time.Time) []change {
	budget, key := r.budget()
	known := budget.expiresAt
	*budget = budget.reserve(now)
	if r.kind == knownAddress {
		budget.expiresAt = known // only a successful sign-in keeps an address known
	}
	budget.version++
	return append(r.fill(now, 1), change{key, *budget})
}

// fill returns the changes that fill the buckets for the attempt with the given number of units.
func (r *reservation) fill(now time.Time, units int) (changes []change) {
	if r.kind == stranger {
		changes = append(changes, addressBucket().fill(r.keys.sprayed, now, units))
	}
	if r.counted {
		changes = append(changes, strangersBucket().fill(r.keys.strangers, now, units))
	}
	return changes
}

// fill returns the change that fills a bucket with the given number of units, or drains it if the number is negative.
func (b bucket) fill(key counterKey, now time.Time, units int) change {
	return change{key, counter{
		blockedUntil: now.Add(time.Duration(units) * b.interval), touchedAt: now, expiresAt: now.Add(2 * time.Duration(b.size) * b.interval),
	}}
}

// empty returns the change that empties a bucket.
func (b bucket) empty(key counterKey, now time.Time) change {
	return b.fill(key, now, -1000*b.size) // concurrent attempts can fill a bucket a little above its size
}

// outcome is the result of an attempt.
type outcome int

const (
	released outcome = iota // the password was not compared
	failed
	succeeded
)

// settle returns the changed counters for the outcome of the attempt.
func (r *reservation) settle(now time.Time, result outcome) (changes []change) {
	budget, key := r.budget()
	switch result {
	case released:
		*budget = budget.release()
		changes = r.fill(now, -1)
	case failed:
		*budget = budget.fail(now, r.rule)
	case succeeded:
		*budget = budget.release().clear()
		if r.kind == stranger {
			changes = append(changes, addressBucket().fill(r.keys.sprayed, now, -1))
		} else {
			*budget = budget.know(now)
		}
		changes = append(changes, strangersBucket().empty(r.keys.strangers, now))
		if r.kind != knownAddress { // the failures of the address remain, because other devices can have caused them
			r.address = r.address.know(now)
			r.address.version++
			changes = append(changes, change{r.keys.addressOf(r.user), r.address})
		}
	}
	budget.version++
	return append(changes, change{key, *budget})
}

// settle records the outcome of an attempt, even if ctx is canceled. It only logs errors, because the response does not
// depend on whether the outcome was recorded. An attempt without a recorded outcome counts as a failure.
func (l *lockout) settle(ctx context.Context, username string, r *reservation, result outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err := l.settleOnce(ctx, r, result)
	for try := 1; (errors.Is(err, errChanged) || conflicted(err)) && sleep(ctx, rand.N(time.Duration(try)*firstPoll)); try++ {
		var f found
		if f, err = l.counters.load(ctx, username, r.keys); err == nil {
			r.found = f.at(l.timestamp())
			err = l.settleOnce(ctx, r, result)
		}
	}
	if err != nil {
		slog.WarnContext(ctx, "could not record the outcome of a sign-in attempt, so the attempt counts as failed", "error", err)
	}
}

func (l *lockout) settleOnce(ctx context.Context, r *reservation, result outcome) error {
	return l.counters.save(ctx, r.settle(l.timestamp(), result))
}

// timestamp returns the current time in UTC, truncated to 1 µs, which is the resolution of times in the database.
func (l *lockout) timestamp() time.Time { return l.now().UTC().Truncate(time.Microsecond) }

// sleep waits until the duration d has passed or ctx is done. It reports whether the duration has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Unlock removes all delays of an account, and empties the buckets that limit it. The error is a problem.NotFound if
// the user does not exist.
func (s *Store) Unlock(ctx context.Context, actor Actor, id string) error {
	key, err := parseID(id)
	if err != nil {
		return err
	}
	var u User
	err = s.asAdmin(ctx, actor, func(ctx context.Context, tx *sql.Tx, _ int) (err error) {
		if u, err = lockUser(ctx, tx, key); err != nil {
			return err
		}
		if err := s.unlock(ctx, tx, u); err != nil {
			return err
		}
		return s.note(ctx, tx, actor, ActionLockoutRemoved, u, "")
	})
	if err == nil {
		err = s.unlockStrangers(ctx, u.Username)
	}
	return fail("unlock user "+id, err)
}

// unlock resets the counters of a user's known clients, and empties the strangers bucket. Only a successful sign-in adds
// a known client, so these are few rows. The caller must call unlockStrangers after the transaction.
func (s *Store) unlock(ctx context.Context, tx *sql.Tx, u User) error {
	user, err := parseID(u.ID)
	if err != nil {
		return err
	}
	strangers := s.lockout.keysOf(u.Username, Attempt{}).strangers.subject
	_, err = tx.ExecContext(ctx, resetCounters+`subject IN (?, ?)`, user[:], strangers[:])
	return err
}

// resetCounters is a statement without its condition. It does not delete the rows, because a new version prevents
// concurrent attempts from restoring their old counters.
const resetCounters = `UPDATE attempt_counters SET failures = 0, pending = 0, blocked_until = 0, version = version + 1 WHERE `

// unlockStrangers resets the counters of all unknown addresses for a user name, and for a few other user names, because
// the table does not distinguish them (see keysOf). An attack from many addresses leaves many rows, so each transaction
// resets at most unlockRows. If unlockStrangers fails, the caller can repeat it.
func (s *Store) unlockStrangers(ctx context.Context, username string) error {
	const end = "\xff" // after all addresses
	pair := s.lockout.keysOf(username, Attempt{}).pair.subject
	for last := ""; last != end; {
		first := last
		err := s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
			last = end
			err := tx.QueryRowContext(ctx, `SELECT client FROM attempt_counters WHERE subject = ? AND client > ? ORDER BY client
				LIMIT 1 OFFSET ?`, pair[:], first, unlockRows-1).Scan(&last)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			_, err = tx.ExecContext(ctx, resetCounters+`subject = ? AND client > ? AND client <= ?`, pair[:], first, last)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// purge deletes expired counters. It only logs errors, because a later sign-in retries the deletion.
func (s *Store) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM attempt_counters WHERE expires_at < ? ORDER BY expires_at LIMIT ?`,
		s.timestamp().UnixMicro(), purgeRows)
	if err != nil {
		slog.WarnContext(ctx, "could not delete expired counters of sign-in attempts", "error", err)
	}
}
