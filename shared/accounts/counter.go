package accounts

import "time"

const (
	// addressLimit is how many failures one address may have with one user name before it has to wait.
	addressLimit = 5
	// userLimit is how many failures all addresses together may have with one user name (NIST SP 800-63B §5.2.2 has
	// at most 100). It is wide, because whoever reaches it also locks the user out.
	userLimit = 100
	// The wait after the limit doubles with each failure.
	firstBackoff = time.Second
	maxBackoff   = 15 * time.Minute
	// forgetAfter is how long a counter lives after the last attempt that counted. Longer than maxBackoff by far:
	// whoever waits for it gains less than by going on.
	forgetAfter = 24 * time.Hour
	// staleAfter is when an attempt that was reserved but never settled counts as a failure: its process died. It must
	// be longer than an attempt can take.
	staleAfter = time.Minute
)

// counter counts the attempts on one user name, from one address or from all.
type counter struct {
	failures     int // known ones in a row
	pending      int // attempts that are under way
	blockedUntil time.Time
	touchedAt    time.Time // of the last attempt that was let through
}

// at returns what is left of the counter at now.
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

// verdict is what is to be done with an attempt.
type verdict int

const (
	admitted verdict = iota
	waiting          // until those under way have shown what they are
	blocked          // until blockedUntil
)

// judge tells whether an attempt is let through. What is under way counts as if it had failed already: so of many
// guesses at once no more than limit are compared. After the limit there is one guess at a time.
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

// reserve notes an attempt that was let through.
func (c counter) reserve(now time.Time) counter {
	c.pending++
	c.touchedAt = now
	return c
}

// release notes that an attempt is over, without an outcome.
func (c counter) release() counter {
	c.pending = max(0, c.pending-1)
	return c
}

// fail notes that an attempt failed.
func (c counter) fail(now time.Time, limit int) counter {
	c = c.release()
	c.failures++
	if c.failures >= limit {
		c.blockedUntil = now.Add(backoff(c.failures - limit))
	}
	return c
}

// succeed notes that an attempt succeeded, which makes up for the failures that came from the same address.
func (c counter) succeed(failures, limit int) counter {
	c = c.release()
	c.failures = max(0, c.failures-failures)
	if c.failures < limit {
		c.blockedUntil = time.Time{}
	}
	return c
}

// backoff is the wait after the n-th failure over the limit.
func backoff(n int) time.Duration {
	if n >= 10 { // 1024 s
		return maxBackoff
	}
	return min(firstBackoff<<n, maxBackoff)
}
