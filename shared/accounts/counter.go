package accounts

import "time"

const (
	// A counter of failures starts again when no attempt has been admitted for forgetAfter. This time is at least as
	// long as each delay, so that an attacker gains nothing by waiting for it.
	forgetAfter = 24 * time.Hour
	// When no attempt has been admitted for staleAfter, all attempts without an outcome count as failures. This is
	// necessary because a killed process never records the outcomes of its attempts.
	staleAfter = time.Minute // longer than an attempt can take, so that attempts in progress do not become failures
	// knownFor is how long an address or a device stays known to an account after a sign-in.
	knownFor = 30 * 24 * time.Hour
)

// rule limits the failures of one client for one account. After the given number of failures, each further attempt must
// wait. The delay doubles with each failure, from first to longest.
type rule struct {
	failures       int
	first, longest time.Duration
}

// knownRule returns the rule for a known address or device. The longest delay is short, because each delay also affects
// the owner of the account.
func knownRule() rule { return rule{failures: 5, first: time.Second, longest: 15 * time.Minute} }

// strangerRule returns the rule for an unknown address. The longest delay is long, because the delay does not affect
// the owner of the account at other addresses.
func strangerRule() rule { return rule{failures: 5, first: time.Minute, longest: forgetAfter} }

// scarceRule returns the rule for an unknown address while the strangers bucket of the account is full. The owner of
// the account can still sign in from a new address, and has a second attempt after 15 minutes.
func scarceRule() rule { return rule{failures: 1, first: 15 * time.Minute, longest: forgetAfter} }

// backoff returns the delay after a failure. n is the number of failures beyond the limit, so n is 0 for the failure
// that reaches the limit.
func (r rule) backoff(n int) time.Duration {
	if n >= 20 { // 2^20 s is longer than any delay
		return r.longest
	}
	return min(r.first<<n, r.longest)
}

// counter counts the failed attempts of one client for one account, or is a bucket.
type counter struct {
	failures     int       // consecutive failures
	pending      int       // admitted attempts without a recorded outcome
	blockedUntil time.Time // for a bucket: the time at which the bucket is empty
	touchedAt    time.Time // the time of the last admitted attempt
	expiresAt    time.Time // the time after which the row can be deleted, and an address is no longer known
	// version increases with each change of the counter, so that concurrent changes are detected. The version of a
	// bucket is 0, because concurrent changes of a bucket are added up.
	version int
}

// at returns the counter's state at the given time. An old counter is empty (see forgetAfter), and attempts that have
// been pending for too long count as failures (see staleAfter).
func (c counter) at(now time.Time) counter {
	age := now.Sub(c.touchedAt)
	switch {
	case age > forgetAfter:
		c.failures, c.pending, c.blockedUntil = 0, 0, time.Time{}
	case age > staleAfter && c.pending > 0:
		c.failures += c.pending
		c.pending = 0
	}
	return c
}

// verdict is the decision to admit a sign-in attempt, to delay it, or to reject it.
type verdict int

const (
	admitted verdict = iota
	waiting          // the attempt waits for the outcomes of pending attempts
	blocked          // attempts are rejected until blockedUntil
)

// judge decides whether to admit an attempt. It counts attempts without an outcome as failures, so that parallel
// guesses cannot exceed the limit, even across several replicas.
func (c counter) judge(now time.Time, r rule) verdict {
	switch {
	case now.Before(c.blockedUntil):
		return blocked
	case c.failures+c.pending < r.failures, c.pending == 0: // after the limit, admit one attempt at a time
		return admitted
	default:
		return waiting
	}
}

// reserve returns c with one more pending attempt. The attempt stays pending until its outcome is recorded.
func (c counter) reserve(now time.Time) counter {
	c.pending++
	c.touchedAt = now
	c.expiresAt = later(c.expiresAt, now.Add(forgetAfter))
	return c
}

// release returns c with one fewer pending attempt. It counts the attempt as neither a failure nor a success.
func (c counter) release() counter {
	c.pending = max(0, c.pending-1)
	return c
}

// fail returns c with one fewer pending attempt and one more failure. If the number of failures reaches the limit,
// the returned counter is blocked until the backoff has passed.
func (c counter) fail(now time.Time, r rule) counter {
	c = c.release()
	c.failures++
	if c.failures >= r.failures {
		c.blockedUntil = now.Add(r.backoff(c.failures - r.failures))
	}
	return c
}

// clear returns c without failures and without a delay.
func (c counter) clear() counter {
	c.failures, c.blockedUntil = 0, time.Time{}
	return c
}

// know returns c with a client that is known for the next 30 days.
func (c counter) know(now time.Time) counter {
	c.expiresAt = now.Add(knownFor)
	return c
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// bucket is a leaky bucket. Each attempt fills one unit, and one unit drains per interval. Its counter has the time at
// which the bucket is empty.
type bucket struct {
	size     int
	interval time.Duration
}

// strangersBucket returns the limits of the bucket for failures from all unknown addresses of one account.
func strangersBucket() bucket { return bucket{size: 100, interval: 15 * time.Minute} } // NIST SP 800-63B §5.2.2: 100

// addressBucket returns the limits of the bucket for attempts from one address on all accounts to which the address is
// unknown. A successful attempt drains the unit that it filled, so the size is the number of concurrent and failed
// attempts of an office behind one address.
func addressBucket() bucket { return bucket{size: 60, interval: time.Minute} }

// roomAt returns the first time at which the bucket has room for one more unit. The time can be in the past.
func (b bucket) roomAt(c counter) time.Time {
	return c.blockedUntil.Add(-time.Duration(b.size-1) * b.interval)
}

// full reports whether the bucket has no room for one more unit.
func (b bucket) full(c counter, now time.Time) bool { return b.roomAt(c).After(now) }
