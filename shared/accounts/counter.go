package accounts

import "time"

const (
	// addressLimit is how many consecutive login attempts for one user name can fail from one address before further
	// attempts from that address are delayed.
	addressLimit = 5
	// userLimit is how many consecutive login attempts for one user name can fail, from all addresses together,
	// before further attempts from all addresses are delayed. It is as high as NIST SP 800-63B §5.2.2 permits, because
	// an attacker who reaches the limit also locks out the user.
	userLimit = 100
	// After a limit is reached, attempts are rejected until a delay has passed. The delay starts at firstBackoff and
	// doubles with each failure, up to maxBackoff.
	firstBackoff = time.Second
	maxBackoff   = 15 * time.Minute
	// forgetAfter is the time from the last admitted attempt until a counter expires. It is much longer than maxBackoff,
	// so that an attacker who waits until a counter expires can make fewer guesses than an attacker who guesses
	// whenever a delay ends.
	forgetAfter = 24 * time.Hour
	// When the last admitted attempt is older than staleAfter, all attempts without a recorded outcome become failures,
	// because a process that was killed never records the outcomes of its attempts. staleAfter is longer than an
	// attempt can take, so that attempts in progress do not become failures.
	staleAfter = time.Minute
)

// counter counts the login attempts for one user name, either from one address or from all addresses.
type counter struct {
	failures     int // consecutive failures
	pending      int // admitted attempts without a recorded outcome
	blockedUntil time.Time
	touchedAt    time.Time // the time of the last admitted attempt
}

// at returns c, updated to the current time. If the last admitted attempt is older than forgetAfter, the returned
// counter is empty. If that attempt is older than staleAfter, all attempts without a recorded outcome become failures.
func (c counter) at(now time.Time) counter {
	age := now.Sub(c.touchedAt)
	switch {
	case age > forgetAfter:
		return counter{touchedAt: now}
	case age > staleAfter && c.pending > 0:
		c.failures += c.pending
		c.pending = 0
	}
	return c
}

// verdict is the decision to admit a login attempt, to delay it, or to reject it.
type verdict int

const (
	admitted verdict = iota
	waiting          // the attempt waits for the outcomes of pending attempts
	blocked          // attempts are rejected until blockedUntil
)

// judge decides whether to admit a login attempt. It counts pending attempts, which have no recorded outcome yet, as
// failures, so that the number of passwords that are compared in parallel cannot exceed the limit. After the limit is
// reached, judge admits one attempt at a time.
func (c counter) judge(now time.Time, limit int) verdict {
	switch {
	case now.Before(c.blockedUntil):
		return blocked
	case c.failures+c.pending < limit, c.pending == 0:
		return admitted
	default:
		return waiting
	}
}

// reserve returns c with one more pending attempt. The attempt stays pending until its outcome is recorded.
func (c counter) reserve(now time.Time) counter {
	c.pending++
	c.touchedAt = now
	return c
}

// release returns c with one fewer pending attempt. It counts neither a failure nor a success.
func (c counter) release() counter {
	c.pending = max(0, c.pending-1)
	return c
}

// fail returns c with one fewer pending attempt and one more failure. If the number of failures reaches limit, the
// returned counter is blocked until the backoff has passed.
func (c counter) fail(now time.Time, limit int) counter {
	c = c.release()
	c.failures++
	if c.failures >= limit {
		c.blockedUntil = now.Add(backoff(c.failures - limit))
	}
	return c
}

// succeed returns c with one fewer pending attempt. It subtracts only addressFailures, the number of failures from the
// successful attempt's address, so that the counter for all addresses keeps the failures from other addresses.
func (c counter) succeed(addressFailures, limit int) counter {
	c = c.release()
	c.failures = max(0, c.failures-addressFailures)
	if c.failures < limit {
		c.blockedUntil = time.Time{}
	}
	return c
}

// backoff returns the delay after a failure. n is the number of failures beyond the limit, so n is 0 for the failure
// that reaches the limit.
func backoff(n int) time.Duration {
	if n >= 10 { // 2^10 s is longer than maxBackoff
		return maxBackoff
	}
	return min(firstBackoff<<n, maxBackoff)
}
