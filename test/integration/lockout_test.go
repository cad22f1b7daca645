package integration

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
)

// clock is a clock that moves only when told.
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

// The stores are two replicas. The clock stands still, so that the block after the fifth failure does not end.
func TestParallelWrongGuesses(t *testing.T) {
	dsn := accountsDB(t)
	now := newClock()
	stores := []*accounts.Store{openAccounts(t, dsn, accounts.WithClock(now.Now)), openAccounts(t, dsn, accounts.WithClock(now.Now))}
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
					t.Errorf("Retry-After is %q, want 1", got)
				}
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if compared.Load() != 5 || refused.Load() != 45 {
		t.Errorf("%d compared, %d refused; want 5 and 45", compared.Load(), refused.Load())
	}
}

// retryAfter returns the Retry-After header that err is answered with.
func retryAfter(err error) string {
	w := &headerWriter{header: http.Header{}}
	problem.Write(w, &http.Request{}, err)
	return w.header.Get("Retry-After")
}

type headerWriter struct{ header http.Header }

func (w *headerWriter) Header() http.Header         { return w.header }
func (w *headerWriter) WriteHeader(int)             {}
func (w *headerWriter) Write(p []byte) (int, error) { return len(p), nil }

func TestParallelRightLogins(t *testing.T) {
	dsn := accountsDB(t)
	stores := []*accounts.Store{openAccounts(t, dsn), openAccounts(t, dsn)}
	// Four mistakes before: one more and the user has to wait.
	for range 4 {
		reserveAndSettle(t, stores[0], "ada", home, accounts.Failed)
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
		t.Errorf("%d at once, want at most 5", most.Load())
	}
	var failures, pending int
	err := openSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures), SUM(pending) FROM login_attempts`).Scan(&failures, &pending)
	if err != nil || failures != 0 || pending != 0 {
		t.Errorf("%d failures and %d pending attempts left, %v; want none", failures, pending, err)
	}
}

func reserveAndSettle(t *testing.T, store *accounts.Store, name string, address netip.Addr, outcome accounts.Outcome) {
	t.Helper()
	settle, err := store.Reserve(t.Context(), name, address)
	if err == nil {
		err = settle(t.Context(), outcome)
	}
	if err != nil {
		t.Fatalf("attempt on %s from %s: %v", name, address, err)
	}
}

func wantBlocked(t *testing.T, store *accounts.Store, name string, address netip.Addr, seconds string) {
	t.Helper()
	settle, err := store.Reserve(t.Context(), name, address)
	if err == nil {
		_ = settle(t.Context(), accounts.Undecided)
	}
	if !errors.Is(err, problem.TooManyAttempts) {
		t.Fatalf("attempt on %s from %s: %v, want problem.TooManyAttempts", name, address, err)
	}
	if got := retryAfter(err); got != seconds {
		t.Errorf("attempt on %s from %s: Retry-After %s, want %s", name, address, got, seconds)
	}
}

func TestLockout(t *testing.T) {
	now := newClock()
	store := openAccounts(t, accountsDB(t), accounts.WithClock(now.Now))
	for range 5 {
		reserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ADA", home, "1")
	// Neither another address nor another user has to wait.
	reserveAndSettle(t, store, "ada", elsewhere, accounts.Succeeded)
	reserveAndSettle(t, store, "grace", home, accounts.Undecided)
	// The wait doubles up to 15 minutes.
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
		wantBlocked(t, store, "ada", home, fmt.Sprint(seconds))
		now.add(time.Duration(seconds)*time.Second - time.Millisecond)
		wantBlocked(t, store, "ada", home, "1")
		now.add(time.Millisecond)
		reserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	// What was compared with nothing is no failure; the right password makes up for all before.
	now.add(15 * time.Minute)
	reserveAndSettle(t, store, "ada", home, accounts.Undecided)
	reserveAndSettle(t, store, "ada", home, accounts.Succeeded)
	for range 5 {
		reserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ada", home, "1")
	// A day later it is forgotten.
	now.add(25 * time.Hour)
	for range 5 {
		reserveAndSettle(t, store, "ada", home, accounts.Failed)
	}
	wantBlocked(t, store, "ada", home, "1")
}

func TestLockoutOfAllAddresses(t *testing.T) {
	now := newClock()
	dsn := accountsDB(t)
	store := openAccounts(t, dsn, accounts.WithClock(now.Now))
	address := home
	for i := range 100 {
		if i%4 == 0 {
			address = address.Next()
		}
		reserveAndSettle(t, store, "ada", address, accounts.Failed)
	}
	wantBlocked(t, store, "ada", elsewhere, "1")
	now.add(time.Second)
	reserveAndSettle(t, store, "ada", elsewhere, accounts.Succeeded)
	// The success made up for its own address's failures only: the next failure blocks again.
	reserveAndSettle(t, store, "ada", elsewhere, accounts.Failed)
	wantBlocked(t, store, "ada", elsewhere, "2")

	// Each hundredth attempt takes away what has run out.
	now.add(25 * time.Hour)
	for range 100 {
		reserveAndSettle(t, store, "grace", home, accounts.Undecided)
	}
	var rows int
	if err := openSQL(t, dsn).QueryRowContext(t.Context(), `SELECT COUNT(*) FROM login_attempts`).Scan(&rows); err != nil || rows != 2 {
		t.Errorf("%d counters left, %v; want the 2 of the last day", rows, err)
	}
}

// An attempt whose process died counts as a failure after a while, and until then keeps its place.
func TestAttemptThatIsNeverSettled(t *testing.T) {
	now := newClock()
	dsn := accountsDB(t)
	dies := openAccounts(t, dsn, accounts.WithClock(now.Now))
	for range 4 {
		reserveAndSettle(t, dies, "ada", home, accounts.Failed)
	}
	if _, err := dies.Reserve(t.Context(), "ada", home); err != nil {
		t.Fatal(err)
	}
	store := openAccounts(t, dsn, accounts.WithClock(now.Now))
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := store.Reserve(short, "ada", home); !errors.Is(err, problem.Unavailable) {
		t.Errorf("while it may still be under way: %v, want problem.Unavailable", err)
	}
	now.add(2 * time.Minute)
	reserveAndSettle(t, store, "ada", home, accounts.Failed) // one guess at a time after five failures
	wantBlocked(t, store, "ada", home, "2")
}
