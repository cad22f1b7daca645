package accounts_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// startSession creates a user and starts a session. It returns the user and the first refresh token.
func startSession(t *testing.T, store *accounts.Store, name string) (accounts.User, string) {
	t.Helper()
	u := servertest.CreateAccount(t, store, name, "user")
	refresh, err := store.StartSession(t.Context(), u, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return u, refresh
}

// refreshed exchanges a refresh token and returns the new refresh token.
func refreshed(t *testing.T, store *accounts.Store, refresh string) string {
	t.Helper()
	_, next, err := store.Refresh(t.Context(), refresh)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// wantEnded checks that a refresh token is refused with problem.SessionEnded. what describes the token.
func wantEnded(t *testing.T, store *accounts.Store, what, refresh string) {
	t.Helper()
	if _, _, err := store.Refresh(t.Context(), refresh); !errors.Is(err, problem.SessionEnded) {
		t.Errorf("refresh with %s: got error %v, want %v", what, err, accounts.ErrSessionEnded)
	}
}

// TestSessionRotates proves that each refresh returns a new refresh token, and that malformed tokens do not end the
// session.
func TestSessionRotates(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	u, first := startSession(t, store, "ada")
	second := refreshed(t, store, first)
	got, third, err := store.Refresh(t.Context(), second)
	if err != nil || got.ID != u.ID || third == second || second == first {
		t.Fatalf("refresh with %q: got user %s, token %q, %v, want user %s and a new token", second, got.ID, third, err, u.ID)
	}
	for _, malformed := range []string{"", "x", third + "x", third[:len(third)-1], third + "=", third + "\n"} {
		wantEnded(t, store, "a malformed token", malformed)
	}
	refreshed(t, store, third) // the malformed tokens have not ended the session
}

// TestRefreshTokenReuseEndsTheSession proves that a session ends if a refresh token is used again after its successor
// was used, because such a token has been stolen. Sessions of other users continue.
func TestRefreshTokenReuseEndsTheSession(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	_, first := startSession(t, store, "ada")
	_, other := startSession(t, store, "grace")
	second := refreshed(t, store, first)
	third := refreshed(t, store, second)
	wantEnded(t, store, "the first token again", first)
	wantEnded(t, store, "the newest token of the ended session", third)
	refreshed(t, store, other) // the session of another user continues
}

// TestRefreshGrace proves that a refresh token can be used again for 10 s, in case the response was lost. If the client
// uses one of the two new tokens, the other new token ends the session.
func TestRefreshGrace(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	_, first := startSession(t, store, "ada")
	second := refreshed(t, store, first)
	clock.add(10 * time.Second)
	sibling := refreshed(t, store, first) // as if the response with second was lost
	if sibling == second {
		t.Error("second refresh with the same token: got the same new token, want another one")
	}
	third := refreshed(t, store, sibling)
	wantEnded(t, store, "the unused sibling of a used token", second)
	wantEnded(t, store, "the newest token of the ended session", third)

	_, first = startSession(t, store, "grace")
	second = refreshed(t, store, first)
	clock.add(10*time.Second + time.Millisecond)
	wantEnded(t, store, "a used token after the grace period", first)
	wantEnded(t, store, "the successor of that token", second)
}

// TestGraceIsBounded proves that a refresh token can be used at most eight times, even within the grace period.
func TestGraceIsBounded(t *testing.T) {
	clock := newClock()
	store := servertest.OpenAccounts(t, servertest.AccountsDSN(t), clock.Now)
	_, first := startSession(t, store, "ada")
	for range 8 {
		refreshed(t, store, first)
	}
	wantEnded(t, store, "the same token for the ninth time", first)
}

// TestSessionEnds proves that a session ends after its lifetime, at logout, and when its user is disabled or deleted. A
// logout of all sessions also voids the access tokens and adds an audit entry.
func TestSessionEnds(t *testing.T) {
	clock := newClock()
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn, clock.Now)
	_, expired := startSession(t, store, "expired")
	clock.add(24 * time.Hour)
	wantEnded(t, store, "a token after its lifetime", expired)

	_, one := startSession(t, store, "ada")
	u, err := store.ByUsername(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	two, err := store.StartSession(t.Context(), u, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second logout is not an error
		if err := store.EndSession(t.Context(), one, false, accounts.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	wantEnded(t, store, "a token after logout", one)
	two = refreshed(t, store, two)
	if err := store.EndSession(t.Context(), two, true, accounts.Actor{RequestID: "r"}); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "a token after logout of all sessions", two)
	after, err := store.ByUsername(t.Context(), "ada")
	if err != nil || after.TokenVersion != u.TokenVersion+1 {
		t.Errorf("token version after logout of all sessions: got %d, %v, want %d", after.TokenVersion, err, u.TokenVersion+1)
	}

	trail, _, err := store.Audit(t.Context(), 1, "")
	if err != nil || len(trail) != 1 || trail[0].Action != accounts.ActionSessionsEnded || trail[0].ActorID != u.ID || trail[0].RequestID != "r" {
		t.Errorf("audit trail: got %+v, %v, want the entry that ada ended her sessions", trail, err)
	}

	disabled, three := startSession(t, store, "disabled")
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `UPDATE users SET disabled_at = updated_at WHERE username = ?`, disabled.Username); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "a token of a disabled user", three)
	deleted, four := startSession(t, store, "deleted")
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `DELETE FROM users WHERE username = ?`, deleted.Username); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, store, "a token of a deleted user", four)
}

// TestRefreshAtOnce proves that if 20 clients use the same refresh token at the same time on two replicas, exactly 8
// get a new token, as the grace period permits. The other requests are refused and end the session.
func TestRefreshAtOnce(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	replicas := []*accounts.Store{servertest.OpenAccounts(t, dsn), servertest.OpenAccounts(t, dsn)}
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
		t.Errorf("got %d successful and %d refused refreshes, want 8 and 12", passed.Load(), ended.Load())
	}
	wantEnded(t, replicas[1], "the token of the ended session", first)
}
