package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/password"
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

// right and wrong compare the right and a wrong password.
func right(context.Context, accounts.User) (bool, error) { return true, nil }

func wrong(context.Context, accounts.User) (bool, error) { return false, nil }

// stranger returns the n-th address that has never signed in.
func stranger(n int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}) }

// device returns a device token of u.
func device(t *testing.T, store *accounts.Store, u accounts.User) string {
	t.Helper()
	text, err := store.DeviceToken(u, "")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestParallelWrongGuesses proves that exactly 5 of 50 parallel wrong guesses on two replicas are admitted, whether or
// not the user exists and the client is known. The clock does not advance, so that the delay after the fifth failure
// does not end.
func TestParallelWrongGuesses(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	now := newClock()
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn, now.Now), servertest.OpenAccounts(t, dsn, now.Now)}
	ada := servertest.CreateAccount(t, stores[0], "ada", "user")
	servertest.Attempt(t, stores[0], "ada", home, true)
	for name, test := range map[string]struct {
		attempt accounts.Attempt
		delay   string // after the fifth failure, in seconds
	}{
		"unknown address": {accounts.Attempt{Username: "ada", Address: elsewhere}, "60"},
		"known address":   {accounts.Attempt{Username: "ada", Address: home}, "1"},
		"known device":    {accounts.Attempt{Username: "ada", Address: elsewhere, Device: device(t, stores[0], ada)}, "1"},
		"unknown user":    {accounts.Attempt{Username: "eve", Address: stranger(1)}, "60"},
		"invalid name":    {accounts.Attempt{Username: "e\x00ve", Address: stranger(2)}, "60"},
	} {
		t.Run(name, func(t *testing.T) {
			var compared, refused atomic.Int32
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					_, err := stores[i%2].Attempt(t.Context(), test.attempt, wrong)
					switch {
					case errors.Is(err, accounts.ErrBadCredentials):
						compared.Add(1)
					case errors.Is(err, problem.TooManyAttempts):
						refused.Add(1)
						if got := retryAfter(err); got != test.delay {
							t.Errorf("got Retry-After %q, want %s", got, test.delay)
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
		})
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

// TestParallelRightLogins proves that 50 parallel logins with the correct password on two replicas all succeed, from an
// address that is unknown at first. At most 5 of them are compared at the same time, and no failure or pending attempt
// remains.
func TestParallelRightLogins(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn), servertest.OpenAccounts(t, dsn)}
	servertest.CreateAccount(t, stores[0], "ada", "user")
	// The user has four failures. After one more failure, the user would have to wait.
	for range 4 {
		servertest.Attempt(t, stores[0], "ada", home, false)
	}
	var most, running atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, err := stores[i%2].Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: home}, func(context.Context, accounts.User) (bool, error) {
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				running.Add(-1)
				return true, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 5 {
		t.Errorf("got %d concurrent attempts, want at most 5", most.Load())
	}
	var failures, pending int
	err := servertest.OpenSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures), SUM(pending) FROM attempt_counters`).Scan(&failures, &pending)
	if err != nil || failures != 0 || pending != 0 {
		t.Errorf("got %d failures and %d pending attempts, %v, want none", failures, pending, err)
	}
}

// wantBlocked checks that an attempt is refused with the given Retry-After header, and that no password is compared.
func wantBlocked(t *testing.T, store *accounts.Store, a accounts.Attempt, seconds string) {
	t.Helper()
	_, err := store.Attempt(t.Context(), a, func(context.Context, accounts.User) (bool, error) {
		t.Errorf("attempt %+v: the password was compared", a)
		return true, nil
	})
	if !errors.Is(err, problem.TooManyAttempts) {
		t.Fatalf("attempt %+v: got error %v, want problem.TooManyAttempts", a, err)
	}
	if got := retryAfter(err); got != seconds {
		t.Errorf("attempt %+v: got Retry-After %s, want %s", a, got, seconds)
	}
}

// TestLockout proves that the attempts of one client on one account must wait after five failures. The delay doubles
// with each failure. The failures of the client do not affect other clients and other accounts. A success, or a day
// without attempts, resets the failures.
func TestLockout(t *testing.T) {
	for name, test := range map[string]struct {
		known  bool
		delays []int // after the fifth and each further failure, in seconds
	}{
		"known address":   {true, []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900}},
		"unknown address": {false, []int{60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 30720, 61440, 86400, 86400}},
	} {
		t.Run(name, func(t *testing.T) {
			now := newClock()
			store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
			servertest.CreateAccount(t, store, "ada", "user")
			servertest.CreateAccount(t, store, "grace", "user")
			if test.known {
				servertest.Attempt(t, store, "ada", home, true)
			}
			for range 5 {
				servertest.Attempt(t, store, "ada", home, false)
			}
			wantBlocked(t, store, accounts.Attempt{Username: "ADA", Address: home}, fmt.Sprint(test.delays[0]))
			servertest.Attempt(t, store, "grace", home, false)
			for _, seconds := range test.delays {
				wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, fmt.Sprint(seconds))
				now.add(time.Duration(seconds)*time.Second - time.Millisecond)
				wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, "1")
				servertest.Attempt(t, store, "ada", elsewhere, true)
				now.add(time.Millisecond)
				servertest.Attempt(t, store, "ada", home, false)
			}
			now.add(24 * time.Hour)
			// An error of the comparison is not a failure. A success resets the failures.
			failure := errors.New("test error")
			if _, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: home},
				func(context.Context, accounts.User) (bool, error) { return true, failure }); !errors.Is(err, failure) {
				t.Errorf("got error %v, want %v", err, failure)
			}
			servertest.Attempt(t, store, "ada", home, true)
			for range 5 {
				servertest.Attempt(t, store, "ada", home, false)
			}
			wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, "1")
			// Failures expire after a day.
			now.add(25 * time.Hour)
			for range 5 {
				servertest.Attempt(t, store, "ada", home, false)
			}
			wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, "1")
		})
	}
}

// TestRejectedAttempts proves that the user and the error are correct for each reason of a rejection, and that the
// password is compared once.
func TestRejectedAttempts(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	root := servertest.CreateAccount(t, store, "root", token.RoleAdmin)
	ada := servertest.CreateAccount(t, store, "ada", token.RoleUser)
	gone := servertest.CreateAccount(t, store, "gone", token.RoleUser)
	gone, err := store.Update(t.Context(), actorOf(root), gone.ID, accounts.Patch{Disabled: ptr(true)})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		username string
		right    bool
		compared accounts.User
		want     error
	}{
		"right password":          {"Ada", true, ada, nil},
		"wrong password":          {"ada", false, ada, accounts.ErrBadCredentials},
		"disabled user":           {"gone", true, gone, accounts.ErrBadCredentials},
		"disabled user, wrong":    {"gone", false, gone, accounts.ErrBadCredentials},
		"unknown user":            {"eve", true, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
		"invalid name":            {"a\x00da", true, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
		"empty name":              {"", true, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
		"invalid name, wrong":     {"a\x00da", false, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
		"name that is not UTF-8":  {"\xff", true, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
		"unknown user and device": {"eve", false, accounts.User{PasswordHash: password.Dummy}, accounts.ErrBadCredentials},
	} {
		var compared []accounts.User
		got, err := store.Attempt(t.Context(), accounts.Attempt{Username: test.username, Address: home, Device: device(t, store, ada)},
			func(_ context.Context, u accounts.User) (bool, error) {
				compared = append(compared, u)
				return test.right, nil
			})
		if !errors.Is(err, test.want) || !slices.Equal(compared, []accounts.User{test.compared}) {
			t.Errorf("%s: got error %v and compared users %+v, want %v and %+v", name, err, compared, test.want, test.compared)
		}
		if got.PasswordHash == "" { // the returned unknown user has no dummy hash
			got.PasswordHash = password.Dummy
		}
		if got != test.compared {
			t.Errorf("%s: got user %+v and error %v, want %+v", name, got, err, test.compared)
		}
	}
}

// TestLockoutCannotBeAimed proves that strangers cannot lock the owner of an account out, at an address or on a device
// that is known. At a new address, the owner has one attempt, even if the strangers have used up their common limit.
func TestLockoutCannotBeAimed(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	servertest.Attempt(t, store, "ada", home, true)
	own := device(t, store, ada)
	attack := func() {
		t.Helper()
		for n := range 25 {
			for range 5 {
				// The error is problem.TooManyAttempts when the common limit of the strangers is reached.
				if _, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: stranger(n)}, wrong); err == nil {
					t.Fatal("a wrong password was accepted")
				}
			}
		}
		wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: stranger(24)}, "900")
	}
	attack()
	for name, test := range map[string]struct {
		attempt  accounts.Attempt
		failures int // that the owner can have before a success
	}{
		"known address":            {accounts.Attempt{Username: "ada", Address: home}, 4},
		"known device":             {accounts.Attempt{Username: "ada", Address: elsewhere, Device: own}, 4},
		"known device at an enemy": {accounts.Attempt{Username: "ada", Address: stranger(3), Device: device(t, store, ada)}, 4},
		"new address":              {accounts.Attempt{Username: "ada", Address: stranger(1000)}, 0},
	} {
		for range test.failures {
			if _, err := store.Attempt(t.Context(), test.attempt, wrong); !errors.Is(err, accounts.ErrBadCredentials) {
				t.Errorf("%s: wrong password: got error %v, want %v", name, err, accounts.ErrBadCredentials)
			}
		}
		// The attempt fails, so that the success does not reset the counters for the next case.
		failure := errors.New("test error")
		_, err := store.Attempt(t.Context(), test.attempt, func(context.Context, accounts.User) (bool, error) { return true, failure })
		if !errors.Is(err, failure) {
			t.Errorf("%s: right password: got error %v, want an admitted attempt", name, err)
		}
	}
	// At a new address, a second attempt must wait for 15 minutes.
	servertest.Attempt(t, store, "ada", stranger(2000), false)
	wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: stranger(2000)}, "900")
	now.add(15 * time.Minute)
	servertest.Attempt(t, store, "ada", stranger(2000), true)
	// The success has reset the common limit, so that one mistake at a new address does not cause a delay.
	servertest.Attempt(t, store, "ada", stranger(3000), false)
	servertest.Attempt(t, store, "ada", stranger(3000), true)
	// An address and a device are known for 30 days.
	now.add(30*24*time.Hour + time.Second)
	attack()
	for name, attempt := range map[string]accounts.Attempt{
		"address after 30 days": {Username: "ada", Address: home},
		"device after 30 days":  {Username: "ada", Address: elsewhere, Device: own},
		"device of another key": {Username: "ada", Address: stranger(4000), Device: own[:len(own)-2] + "AA"},
	} {
		if _, err := store.Attempt(t.Context(), attempt, wrong); !errors.Is(err, accounts.ErrBadCredentials) {
			t.Errorf("%s: got error %v, want %v", name, err, accounts.ErrBadCredentials)
		}
		wantBlocked(t, store, attempt, "900")
	}
}

// TestFailuresKeepNoAddressKnown proves that failed attempts do not extend the 30 days for which an address is known.
func TestFailuresKeepNoAddressKnown(t *testing.T) {
	now := newClock()
	store := accounts.OpenInMemory(now.Now, "ada")
	servertest.Attempt(t, store, "ada", home, true)
	now.add(30*24*time.Hour - time.Minute)
	servertest.Attempt(t, store, "ada", home, false)
	now.add(2 * time.Minute)
	for range 5 {
		servertest.Attempt(t, store, "ada", home, false)
	}
	// The first delay is 1 minute for a stranger, and 1 s or 2 s at a known address.
	wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, "60")
}

// TestLockoutHeals proves that one mistake of the owner does not cause a delay after an attack, if the owner has signed
// in since then.
func TestLockoutHeals(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	servertest.CreateAccount(t, store, "ada", "user")
	for n := range 115 {
		_, _ = store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: stranger(n)}, wrong)
	}
	for day := range 3 {
		now.add(23 * time.Hour)
		servertest.Attempt(t, store, "ada", stranger(1000+day), true)
	}
	servertest.Attempt(t, store, "ada", home, false)
	servertest.Attempt(t, store, "ada", home, true)
}

// TestUnlock proves that an admin can remove the lockout of an account, with an entry in the audit trail, and that a
// new password also removes the lockout.
func TestUnlock(t *testing.T) {
	now := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	root := servertest.CreateAccount(t, store, "root", token.RoleAdmin)
	ada := servertest.CreateAccount(t, store, "ada", token.RoleUser)
	servertest.Attempt(t, store, "ada", home, true)
	own := device(t, store, ada)
	for name, unlock := range map[string]func() error{
		"Unlock": func() error { return store.Unlock(t.Context(), actorOf(root), ada.ID) },
		"Update": func() error {
			_, err := store.Update(t.Context(), actorOf(root), ada.ID, accounts.Patch{PasswordHash: ptr("another hash")})
			return err
		},
	} {
		clients := []accounts.Attempt{{Username: "ada", Address: home}, {Username: "ada", Address: elsewhere, Device: own}, {Username: "ada", Address: elsewhere}}
		for n := range 25 {
			clients = append(clients, accounts.Attempt{Username: "ada", Address: stranger(n)})
		}
		for _, client := range clients {
			for range 5 {
				_, _ = store.Attempt(t.Context(), client, wrong)
			}
			if _, err := store.Attempt(t.Context(), client, right); !errors.Is(err, problem.TooManyAttempts) {
				t.Fatalf("%s: attempt %+v: got error %v, want problem.TooManyAttempts", name, client, err)
			}
		}
		if err := unlock(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, client := range clients {
			for range 2 { // with the common limit of strangers, the second attempt would be refused
				if _, err := store.Attempt(t.Context(), client, wrong); !errors.Is(err, accounts.ErrBadCredentials) {
					t.Errorf("%s: attempt %+v: got error %v, want %v", name, client, err, accounts.ErrBadCredentials)
				}
			}
		}
		now.add(25 * time.Hour) // the limit of the address drains
		if err := unlock(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if got := servertest.AuditTrail(t, store); !slices.Contains(got, "root "+accounts.ActionLockoutRemoved+" ada") {
		t.Errorf("got audit trail %q, want an entry with %s", got, accounts.ActionLockoutRemoved)
	}
	for name, test := range map[string]struct {
		actor accounts.Actor
		id    string
		want  error
	}{
		"user":         {actorOf(ada), ada.ID, token.ErrStale},
		"unknown user": {actorOf(root), uuid.NewString(), problem.NotFound},
		"invalid ID":   {actorOf(root), "ada", problem.NotFound},
	} {
		if err := store.Unlock(t.Context(), test.actor, test.id); !errors.Is(err, test.want) {
			t.Errorf("%s: got error %v, want %v", name, err, test.want)
		}
	}
}

// TestUnlockAfterLargeAttack proves that the counters of many unknown addresses are reset in several transactions. Another
// transaction that has locked the last counter does not prevent the reset of the first ones.
func TestUnlockAfterLargeAttack(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	root := servertest.CreateAccount(t, store, "root", token.RoleAdmin)
	ada := servertest.CreateAccount(t, store, "ada", token.RoleUser)
	servertest.Attempt(t, store, "ada", elsewhere, false)
	db := servertest.OpenSQL(t, dsn)
	const digits = `(SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)`
	if _, err := db.ExecContext(t.Context(), `INSERT INTO attempt_counters
		SELECT subject, CONCAT(client, '-', t.n, h.n, d.n, o.n), failures, pending, blocked_until, touched_at, expires_at, version
		FROM attempt_counters JOIN (SELECT 0 n UNION SELECT 1 UNION SELECT 2) t JOIN `+digits+` h JOIN `+digits+` d JOIN `+digits+` o
		WHERE client = '198.51.100.7' AND failures = 1`); err != nil {
		t.Fatal(err)
	}
	failed := func() (n int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM attempt_counters WHERE failures > 0`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := failed(); got != 3001 {
		t.Fatalf("got %d counters with failures, want 3001", got)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var subject []byte
	if err := db.QueryRowContext(t.Context(), `SELECT subject FROM attempt_counters WHERE client = '198.51.100.7-2999'`).Scan(&subject); err != nil {
		t.Fatal(err)
	}
	// With the whole primary key, the transaction locks only this row.
	if _, err := tx.ExecContext(t.Context(), `UPDATE attempt_counters SET failures = 2 WHERE subject = ? AND client = '198.51.100.7-2999'`, subject); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := store.Unlock(short, actorOf(root), ada.ID); err == nil || failed() > 2001 {
		t.Errorf("got error %v and %d counters with failures, want an error and at most 2001", err, failed())
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := store.Unlock(t.Context(), actorOf(root), ada.ID); err != nil || failed() != 0 {
		t.Errorf("got error %v and %d counters with failures, want no error and 0", err, failed())
	}
}

// TestSpraying proves that an address has a limit for all user names, before a password is compared. The limit does not
// affect other addresses and known clients. Successful attempts do not count.
func TestSpraying(t *testing.T) {
	now := newClock()
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, now.Now)
	replica := servertest.OpenAccounts(t, dsn, now.Now)
	ada := servertest.CreateAccount(t, store, "ada", "user")
	servertest.CreateAccount(t, store, "grace", "user")
	office := netip.MustParseAddr("2001:db8::1")
	servertest.Attempt(t, store, "ada", office, true)
	for n := range 100 { // more than the limit
		name := fmt.Sprint("employee-", n)
		servertest.CreateAccount(t, store, name, "user")
		servertest.Attempt(t, store, name, office, true)
	}
	for n := range 60 {
		name := fmt.Sprint("user-", n)
		if n == 0 {
			name = "grace"
		}
		servertest.Attempt(t, []*accounts.Store{store, replica}[n%2], name, office, false)
	}
	for name, check := range map[string]func(from netip.Addr) error{
		"unknown user": func(from netip.Addr) error {
			_, err := replica.Attempt(t.Context(), accounts.Attempt{Username: "another", Address: from}, func(context.Context, accounts.User) (bool, error) {
				return false, errors.New("the password was compared")
			})
			return err
		},
		"known user": func(from netip.Addr) error {
			_, err := store.Attempt(t.Context(), accounts.Attempt{Username: "grace", Address: from}, func(context.Context, accounts.User) (bool, error) {
				return false, errors.New("the password was compared")
			})
			return err
		},
	} {
		for address, want := range map[string]string{"2001:db8::1": "60", "2001:db8::2": "60", "2001:db8:0:1::1": ""} { // the first two are in one /64
			err := check(netip.MustParseAddr(address))
			if errors.Is(err, problem.TooManyAttempts) != (want != "") || want != "" && retryAfter(err) != want {
				t.Errorf("%s from %s: got error %v, want Retry-After %q", name, address, err, want)
			}
		}
	}
	servertest.Attempt(t, store, "ada", office, true) // known address
	if _, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: office, Device: device(t, store, ada)}, right); err != nil {
		t.Errorf("known device: %v", err)
	}
	// One attempt per minute is admitted. Successful attempts do not count.
	now.add(time.Minute)
	for n := range 3 {
		name := fmt.Sprint("newcomer-", n)
		servertest.CreateAccount(t, store, name, "user")
		servertest.Attempt(t, store, name, office, true)
	}
	servertest.Attempt(t, store, "another", office, false)
	wantBlocked(t, store, accounts.Attempt{Username: "another", Address: office}, "60")
}

// TestUnknownUsersAreCountedAlike proves that the sequence of responses does not reveal whether a user exists.
func TestUnknownUsersAreCountedAlike(t *testing.T) {
	var sequences []string
	for _, name := range []string{"ada", "eve", "e\x00ve"} {
		now := newClock()
		store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
		servertest.CreateAccount(t, store, "ada", "user")
		sequence := ""
		for n := range 400 {
			_, err := store.Attempt(t.Context(), accounts.Attempt{Username: name, Address: stranger(n % 40)}, wrong)
			sequence += fmt.Sprint(problem.Status(err), " ", retryAfter(err), "\n")
			now.add(time.Duration(n) * time.Second)
		}
		sequences = append(sequences, sequence)
	}
	if sequences[0] != sequences[1] || sequences[0] != sequences[2] {
		t.Errorf("got different responses:\n%s", sequences)
	}
}

// TestExpiredRowsAreDeleted proves that sign-ins delete expired counters and sessions, even if every process ends after
// one sign-in.
func TestExpiredRowsAreDeleted(t *testing.T) {
	attempt := func(t *testing.T, store *accounts.Store, _ accounts.User, now time.Time) {
		// Use another address each time, because an attempt renews its own counters.
		servertest.Attempt(t, store, now.Format("user-02"), stranger(int(now.Unix())), false)
	}
	start := func(t *testing.T, store *accounts.Store, _ accounts.User, _ time.Time) {
		// Use another user each time, because the limit of sessions per user also deletes sessions.
		u := servertest.CreateAccount(t, store, servertest.UniqueName(), token.RoleUser)
		if _, _, err := store.StartSession(t.Context(), u, accounts.SignIn{}, lifetimes); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		signIn func(t *testing.T, store *accounts.Store, u accounts.User, now time.Time)
		count  string // a query that returns the number of rows that expired before a given time
	}{
		"counters": {attempt, `SELECT COUNT(*) FROM attempt_counters WHERE expires_at < 1000000 * UNIX_TIMESTAMP(?)`},
		"sessions": {start, `SELECT (SELECT COUNT(*) FROM sessions WHERE expires_at < ?) +
			(SELECT COUNT(*) FROM refresh_tokens WHERE session_id NOT IN (SELECT id FROM sessions))`},
	} {
		t.Run(name, func(t *testing.T) {
			now, dsn := newClock(), servertest.AccountsDSN(t)
			u := servertest.CreateAccount(t, servertest.OpenAccounts(t, dsn, now.Now), "ada", token.RoleUser)
			db := servertest.OpenSQL(t, dsn)
			expired := func() (n int) {
				t.Helper()
				if err := db.QueryRowContext(t.Context(), c.count, now.Now()).Scan(&n); err != nil {
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
				now.add(time.Second)
			}
		})
	}
}

// TestAttemptThatIsNeverSettled proves that an attempt whose process was killed stays pending at first, so that other
// attempts must wait. After two minutes, the attempt counts as a failure.
func TestAttemptThatIsNeverSettled(t *testing.T) {
	now := newClock()
	dsn := servertest.AccountsDSN(t)
	dies := servertest.OpenAccounts(t, dsn, now.Now)
	for range 4 {
		servertest.Attempt(t, dies, "ada", home, false)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = dies.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: home}, func(context.Context, accounts.User) (bool, error) {
			runtime.Goexit() // ends the attempt without an outcome
			return false, nil
		})
	})
	wg.Wait()
	store := servertest.OpenAccounts(t, dsn, now.Now)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := store.Attempt(short, accounts.Attempt{Username: "ada", Address: home}, right); !errors.Is(err, problem.Unavailable) {
		t.Errorf("attempt while another attempt is pending: got error %v, want problem.Unavailable", err)
	}
	now.add(2 * time.Minute)
	servertest.Attempt(t, store, "ada", home, false) // after five failures, one attempt at a time is admitted
	wantBlocked(t, store, accounts.Attempt{Username: "ada", Address: home}, "120")
}

// TestOwnerDoesNotWaitForStrangers proves that the attempt of the owner is compared while many attempts of strangers on
// the same account are pending.
func TestOwnerDoesNotWaitForStrangers(t *testing.T) {
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	servertest.CreateAccount(t, store, "ada", "user")
	servertest.Attempt(t, store, "ada", home, true)
	release := make(chan struct{})
	var wg, pending sync.WaitGroup
	for n := range 60 {
		pending.Add(1)
		wg.Go(func() {
			compared := false
			_, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: stranger(n)}, func(context.Context, accounts.User) (bool, error) {
				compared = true
				pending.Done()
				<-release
				return false, nil
			})
			if !compared {
				t.Errorf("stranger %d: got error %v before the comparison", n, err)
				pending.Done()
			}
		})
	}
	pending.Wait()
	for name, address := range map[string]netip.Addr{"known address": home, "new address": elsewhere} {
		if _, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: address}, right); err != nil {
			t.Errorf("owner at a %s: %v", name, err)
		}
	}
	close(release)
	wg.Wait()
}
