package accounts

import "time"

const (
	// After addressLimit consecutive failed login attempts for one user name from one address, further attempts for
	// that user name from that address are delayed.
	addressLimit = 5
	// After userLimit consecutive failed login attempts for one user name, from all addresses together, further
	// attempts for that user name from any address are delayed.
	userLimit = 100 // the maximum in NIST SP 800-63B §5.2.2, because reaching the limit also locks out the user
	// After addressLimit or userLimit is reached, login attempts are rejected until a delay has passed. The delay
	// starts at firstBackoff and doubles with each further failure, up to maxBackoff.
	firstBackoff = time.Second
	maxBackoff   = 15 * time.Minute
	// A counter expires when no login attempt has been admitted for forgetAfter. This time far exceeds maxBackoff, so
	// that an attacker gains almost nothing by waiting for the counter to expire.
	forgetAfter = 24 * time.Hour
	// When no login attempt has been admitted for staleAfter, all attempts without an outcome count as failures. This
	// is necessary because a killed process never records the outcomes of its attempts.
	staleAfter = time.Minute // longer than an attempt can take, so that attempts in progress do not become failures
)

// counter counts the login attempts for one user name, either from one address or from all addresses.
type counter struct {
	failures     int // consecutive failures
	pending      int // admitted attempts without a recorded outcome
	blockedUntil time.Time
	touchedAt    time.Time // the time of the last admitted attempt
}

// at returns the counter's state at the given time. An expired counter is empty (see forgetAfter), and
// attempts that have been pending for too long count as failures (see staleAfter).
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

// judge decides whether to admit a login attempt. It counts attempts without an outcome as failures, so that parallel
// guesses cannot exceed the limit, even across several replicas.
func (c counter) judge(now time.Time, limit int) verdict {
	switch {
	case now.Before(c.blockedUntil):
		return blocked
	case c.failures+c.pending < limit, c.pending == 0: // after the limit, admit one attempt at a time
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

// release returns c with one fewer pending attempt. It counts the attempt as neither a failure nor a success.
func (c counter) release() counter {
	c.pending = max(0, c.pending-1)
	return c
}

// fail returns c with one fewer pending attempt and one more failure. If the number of failures reaches the limit,
// the returned counter is blocked until the backoff has passed.
func (c counter) fail(now time.Time, limit int) counter {
	c = c.release()
	c.failures++
	if c.failures >= limit {
		c.blockedUntil = now.Add(backoff(c.failures - limit))
	}
	return c
}

// succeed returns c with one fewer pending attempt and addressFailures fewer failures. addressFailures is the number
// of failures from the address of the successful attempt, so the counter for all addresses keeps the other failures.
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
