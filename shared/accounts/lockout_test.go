package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// clock is a clock whose time changes only when the test calls add.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var home, elsewhere = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")

// TestParallelWrongGuesses proves that Reserve admits exactly 5 of 50 parallel wrong guesses on two replicas. The clock
// does not advance, so that the delay after the fifth failure does not end.
func TestParallelWrongGuesses(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	now := newClock()
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn, now.Now), servertest.OpenAccounts(t, dsn, now.Now)}
	var compared, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			settle, err := stores[i%2].Reserve(t.Context(), "ada", home)
			switch {
			case err == nil:
				compared.Add(1)
				if err := settle(t.Context(), accounts.Failed); err != nil {
					t.Error(err)
				}
			case errors.Is(err, problem.TooManyAttempts):
				refused.Add(1)
				if got := retryAfter(err); got != "1" {
					t.Errorf("got Retry-After %q, want 1", got)
				}
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if compared.Load() != 5 || refused.Load() != 45 {
		t.Errorf("got %d admitted and %d refused attempts, want 5 and 45", compared.Load(), refused.Load())
	}
}

// retryAfter returns the Retry-After header of the response to err.
func retryAfter(err error) string {
	w := &headerWriter{header: http.Header{}}
	problem.Write(w, &http.Request{}, err)
	return w.header.Get("Retry-After")
}

// headerWriter is an http.ResponseWriter that stores only the headers.
type headerWriter struct{ header http.Header }

func (w *headerWriter) Header() http.Header { return w.header }

func (w *headerWriter) WriteHeader(int) {}

func (w *headerWriter) Write(p []byte) (int, error) { return len(p), nil }

// TestParallelRightLogins proves that 50 parallel logins with the correct password on two replicas all succeed. Reserve
// admits at most 5 of them at the same time, and no failure or unsettled attempt remains.
func TestParallelRightLogins(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn), servertest.OpenAccounts(t, dsn)}
	// The user has four failures. After one more failure, the user would have to wait.
	for range 4 {
		servertest.ReserveAndSettle(t, stores[0], "ada", home, accounts.Failed)
	}
	var most, running atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			settle, err := stores[i%2].Reserve(t.Context(), "ada", home)
			if err != nil {
				t.Error(err)
				return
			}
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			running.Add(-1)
			if err := settle(t.Context(), accounts.Succeeded); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 {
		t.Errorf("got %d concurrent attempts, want at most 5", most.Load())
	}
	var failures, pending int
	err := servertest.OpenSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures), SUM(pending) FROM login_attempts`).Scan(&failures, &pending)
	if err != nil || failures != 0 || pending != 0 {
		t.Errorf("got %d failures and %d unsettled attempts, %v, want none", failures, pending, err)
	}
}

// wantBlocked checks that a login attempt is refused with the given Retry-After header.
func wantBlocked(t *testing.T, store *accounts.Store, name string, address netip.Addr, seconds string) {
	t.Helper()
	settle, err := store.Reserve(t.Context(), name, address)
	if err == nil {
		_ = settle(t.Context(), accounts.Undecided)
	}
	if !errors.Is(err, problem.TooManyAttempts) {
		t.Fatalf("attempt on %s from %s: got error %v, want problem.TooManyAttempts", name, address, err)
	}
	if got := retryAfter(err); got != seconds {
		t.Errorf("attempt on %s from %s: got Retry-After %s, want %s", name, address, got, seconds)
	}
}

// TestLockout proves that attempts on a user from one address must wait after five failures. The delay doubles with
// each failure up to 15 minutes. A success, or a day without attempts, resets the failures.
func TestLockout(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	for range 5 {
		servertest.ReserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ADA", home, "1")
	// Attempts from another address, or on another user, do not have to wait.
	servertest.ReserveAndSettle(t, store, "ada", elsewhere, accounts.Succeeded)
	servertest.ReserveAndSettle(t, store, "grace", home, accounts.Undecided)
	// The delay doubles up to 15 minutes.
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
		wantBlocked(t, store, "ada", home, fmt.Sprint(seconds))
		now.add(time.Duration(seconds)*time.Second - time.Millisecond)
		wantBlocked(t, store, "ada", home, "1")
		now.add(time.Millisecond)
		servertest.ReserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	// An undecided attempt is not a failure. A success resets the failures.
	now.add(15 * time.Minute)
	servertest.ReserveAndSettle(t, store, "ada", home, accounts.Undecided)
	servertest.ReserveAndSettle(t, store, "ada", home, accounts.Succeeded)
	for range 5 {
		servertest.ReserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ada", home, "1")
	// Failures expire after a day.
	now.add(25 * time.Hour)
	for range 5 {
		servertest.ReserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ada", home, "1")
}

// TestLockoutOfAllAddresses proves that all attempts on a user must wait after 100 failures from any addresses.
func TestLockoutOfAllAddresses(t *testing.T) {
	now := newClock()
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, now.Now)
	address := home
	for i := range 100 {
		if i%4 == 0 {
			address = address.Next()
		}
		servertest.ReserveAndSettle(t, store, "ada", address, accounts.Failed)
	}
	wantBlocked(t, store, "ada", elsewhere, "1")
	now.add(time.Second)
	servertest.ReserveAndSettle(t, store, "ada", elsewhere, accounts.Succeeded)
	// The success reset only the failures from its own address, so the next failure blocks the user again.
	servertest.ReserveAndSettle(t, store, "ada", elsewhere, accounts.Failed)
	wantBlocked(t, store, "ada", elsewhere, "2")
}

// TestExpiredRowsAreDeleted proves that sign-ins delete expired counters and sessions, even if every process ends after
// one sign-in.
func TestExpiredRowsAreDeleted(t *testing.T) {
	attempt := func(t *testing.T, store *accounts.Store, _ accounts.User, now time.Time) {
		// Use another name each day, because an attempt renews its own counters.
		servertest.ReserveAndSettle(t, store, now.Format("user-02"), home, accounts.Undecided)
	}
	start := func(t *testing.T, store *accounts.Store, u accounts.User, _ time.Time) {
		if _, err := store.StartSession(t.Context(), u, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		signIn func(t *testing.T, store *accounts.Store, u accounts.User, now time.Time)
		count  string // a query that returns the number of rows that expired before a given time
		limit  time.Duration
	}{
		"counters": {attempt, `SELECT COUNT(*) FROM login_attempts WHERE touched_at < ?`, -24 * time.Hour},
		"sessions": {start, `SELECT (SELECT COUNT(*) FROM sessions WHERE expires_at < ?) +
			(SELECT COUNT(*) FROM refresh_tokens WHERE session_id NOT IN (SELECT id FROM sessions))`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			now, dsn := newClock(), servertest.AccountsDSN(t)
			u := servertest.CreateAccount(t, servertest.OpenAccounts(t, dsn, now.Now), "ada", token.RoleUser)
			db := servertest.OpenSQL(t, dsn)
			expired := func() (n int) {
				t.Helper()
				if err := db.QueryRowContext(t.Context(), c.count, now.Now().Add(c.limit)).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			process := func() {
				t.Helper()
				store, err := accounts.Open(dsn, now.Now)
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				c.signIn(t, store, u, now.Now())
			}
			process()
			now.add(25 * time.Hour)
			if expired() == 0 {
				t.Fatal("got no expired rows")
			}
			// Each sign-in deletes the rows with a probability of 1 %. The probability that none of 5,000 sign-ins
			// deletes them is less than 10^-21.
			for n := 0; expired() > 0; n++ {
				if n == 5000 {
					t.Fatalf("got %d expired rows after %d sign-ins, want none", expired(), n)
				}
				process()
			}
		})
	}
}

// TestAttemptThatIsNeverSettled proves that an attempt whose process was killed keeps its reservation at first, so that
// other attempts must wait. After two minutes, the attempt counts as a failure.
func TestAttemptThatIsNeverSettled(t *testing.T) {
	now := newClock()
	dsn := servertest.AccountsDSN(t)
	dies := servertest.OpenAccounts(t, dsn, now.Now)
	for range 4 {
		servertest.ReserveAndSettle(t, dies, "ada", home, accounts.Failed)
	}
	if _, err := dies.Reserve(t.Context(), "ada", home); err != nil {
		t.Fatal(err)
	}
	store := servertest.OpenAccounts(t, dsn, now.Now)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := store.Reserve(short, "ada", home); !errors.Is(err, problem.Unavailable) {
		t.Errorf("attempt during the reservation: got error %v, want problem.Unavailable", err)
	}
	now.add(2 * time.Minute)
	servertest.ReserveAndSettle(t, store, "ada", home, accounts.Failed) // after five failures, one attempt at a time is admitted
	wantBlocked(t, store, "ada", home, "2")
}
