package integration

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// startSession signs in a new user called name and returns the first refresh token.
func startSession(t *testing.T, store *accounts.Store, name string) (accounts.User, string) {
	t.Helper()
	u, err := store.Create(t.Context(), name, "hash", "user")
	if err != nil {
		t.Fatal(err)
	}
	refresh, err := store.StartSession(t.Context(), u, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return u, refresh
}

// refreshed refreshes and returns the next token.
func refreshed(t *testing.T, store *accounts.Store, refresh string) string {
	t.Helper()
	_, next, err := store.Refresh(t.Context(), refresh)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func wantEnded(t *testing.T, store *accounts.Store, what, refresh string) {
	t.Helper()
	if _, _, err := store.Refresh(t.Context(), refresh); !errors.Is(err, problem.SessionEnded) {
		t.Errorf("%s: got %v, want %v", what, err, accounts.ErrSessionEnded)
	}
}

func TestSessionRotates(t *testing.T) {
	clock := newClock()
	store := openAccounts(t, accountsDB(t), accounts.WithClock(clock.Now))
	u, first := startSession(t, store, "ada")
	second := refreshed(t, store, first)
	got, third, err := store.Refresh(t.Context(), second)
	if err != nil || got.ID != u.ID || third == second || second == first {
		t.Fatalf("got user %s, token %q after %q, %v", got.ID, third, second, err)
	}
	for _, malformed := range []string{"", "x", third + "x", third[:len(third)-1], third + "=", third + "\n"} {
		wantEnded(t, store, "malformed", malformed)
	}
	refreshed(t, store, third) // and that did it no harm
}

// A token that was used and whose successor was used, too, has been stolen.
func TestRefreshTokenReuseEndsTheSession(t *testing.T) {
	clock := newClock()
	store := openAccounts(t, accountsDB(t), accounts.WithClock(clock.Now))
	_, first := startSession(t, store, "ada")
	_, other := startSession(t, store, "grace")
	second := refreshed(t, store, first)
	third := refreshed(t, store, second)
	wantEnded(t, store, "the first one again, at once", first)
	wantEnded(t, store, "the successor after that", third)
	refreshed(t, store, other) // somebody else's session goes on
}

func TestRefreshGrace(t *testing.T) {
	clock := newClock()
	store := openAccounts(t, accountsDB(t), accounts.WithClock(clock.Now))
	_, first := startSession(t, store, "ada")
	second := refreshed(t, store, first)
	clock.add(10 * time.Second)
	sibling := refreshed(t, store, first) // the answer was lost, say
	if sibling == second {
		t.Error("the same token was made twice")
	}
	third := refreshed(t, store, sibling)
	wantEnded(t, store, "the sibling that was left behind", second)
	wantEnded(t, store, "and so the other one, too", third)

	_, first = startSession(t, store, "grace")
	second = refreshed(t, store, first)
	clock.add(10*time.Second + time.Millisecond)
	wantEnded(t, store, "after the grace", first)
	wantEnded(t, store, "and so its successor, too", second)
}

func TestGraceIsBounded(t *testing.T) {
	clock := newClock()
	store := openAccounts(t, accountsDB(t), accounts.WithClock(clock.Now))
	_, first := startSession(t, store, "ada")
	for range 8 {
		refreshed(t, store, first)
	}
	wantEnded(t, store, "the ninth", first)
}

func TestSessionEnds(t *testing.T) {
	clock := newClock()
	dsn := accountsDB(t)
	store := openAccounts(t, dsn, accounts.WithClock(clock.Now))
	_, expired := startSession(t, store, "expired")
	clock.add(24 * time.Hour)
	wantEnded(t, store, "after its lifetime", expired)

	_, one := startSession(t, store, "ada")
	u, err := store.ByUsername(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	two, err := store.StartSession(t.Context(), u, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second logout finds nothing to end, which is no error
		if err := store.EndSession(t.Context(), one, false, accounts.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	wantEnded(t, store, "after logout", one)
	two = refreshed(t, store, two)
	if err := store.EndSession(t.Context(), two, true, accounts.Actor{RequestID: "r"}); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "after logout of all", two)
	after, err := store.ByUsername(t.Context(), "ada")
	if err != nil || after.TokenVersion != u.TokenVersion+1 {
		t.Errorf("got token version %d, %v; want %d, so that access tokens are void", after.TokenVersion, err, u.TokenVersion+1)
	}

	trail, _, err := store.Audit(t.Context(), 1, "")
	if err != nil || len(trail) != 1 || trail[0].Action != accounts.ActionSessionsEnded || trail[0].ActorID != u.ID || trail[0].RequestID != "r" {
		t.Errorf("got the audit trail %+v, %v; want that ada ended her sessions", trail, err)
	}

	disabled, three := startSession(t, store, "disabled")
	if _, err := openSQL(t, dsn).ExecContext(t.Context(), `UPDATE users SET disabled_at = updated_at WHERE username = ?`, disabled.Username); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "of a disabled user", three)
	deleted, four := startSession(t, store, "deleted")
	if _, err := openSQL(t, dsn).ExecContext(t.Context(), `DELETE FROM users WHERE username = ?`, deleted.Username); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "of a deleted user", four)
}

// Twenty clients with one token on two replicas: as many get a successor as the grace permits, and then the session
// ends; in no order does anything else happen.
func TestRefreshAtOnce(t *testing.T) {
	dsn := accountsDB(t)
	replicas := []*accounts.Store{openAccounts(t, dsn), openAccounts(t, dsn)}
	_, first := startSession(t, replicas[0], "ada")
	var wg sync.WaitGroup
	var passed, ended atomic.Int32
	for i := range 20 {
		wg.Go(func() {
			switch _, _, err := replicas[i%2].Refresh(t.Context(), first); {
			case err == nil:
				passed.Add(1)
			case errors.Is(err, problem.SessionEnded):
				ended.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if passed.Load() != 8 || ended.Load() != 12 {
		t.Errorf("%d passed and %d were refused, want 8 and 12", passed.Load(), ended.Load())
	}
	wantEnded(t, replicas[1], "afterwards", first)
}

// Sessions that have run out are deleted by and by.
func TestExpiredSessionsGo(t *testing.T) {
	clock := newClock()
	dsn := accountsDB(t)
	store := openAccounts(t, dsn, accounts.WithClock(clock.Now))
	u, _ := startSession(t, store, "ada")
	clock.add(25 * time.Hour)
	for range 100 {
		if _, err := store.StartSession(t.Context(), u, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for table, want := range map[string]int{"sessions": 100, "refresh_tokens": 100} {
		var got int
		if err := openSQL(t, dsn).QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&got); err != nil || got != want {
			t.Errorf("%s has %d rows (%v), want %d: the expired one is to go", table, got, err, want)
		}
	}
}
