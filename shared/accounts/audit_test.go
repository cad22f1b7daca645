//go:build audit

package accounts_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// guess makes a failed attempt on ada's account from an address. It moves the clock on until the store allows the attempt.
func guess(t *testing.T, s *accounts.Store, now *clock, from netip.Addr) {
	t.Helper()
	for {
		settle, err := s.Reserve(t.Context(), "ada", from)
		if err == nil {
			err = settle(t.Context(), accounts.Failed)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, problem.TooManyAttempts) {
			t.Fatal(err)
		}
		seconds, err := strconv.Atoi(retryAfter(err))
		if err != nil {
			t.Fatal(err)
		}
		now.add(time.Duration(seconds) * time.Second)
	}
}

// visit signs ada in from home with the right password, and reports whether the store allows the attempt.
func visit(t *testing.T, s *accounts.Store) bool {
	t.Helper()
	settle, err := s.Reserve(t.Context(), "ada", home)
	if err == nil {
		err = settle(t.Context(), accounts.Succeeded)
	}
	if err != nil && !errors.Is(err, problem.TooManyAttempts) {
		t.Fatal(err)
	}
	return err == nil
}

// TestAuditLockoutFromOneAddress checks security S1: guesses from one address do not lock the owner of the account out at another address.
func TestAuditLockoutFromOneAddress(t *testing.T) {
	const guesses = 200
	now := newClock()
	s := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	refused := 0
	for range guesses {
		guess(t, s, now, elsewhere)
		now.add(7 * time.Minute) // The longest wait of the address is 15 minutes.
		if !visit(t, s) {
			refused++
		}
	}
	if refused != 0 {
		t.Errorf("got %d of %d visits of the owner refused, want none", refused, guesses)
	}
}

// TestAuditLockoutFromManyAddresses checks security S1: guesses from 20 addresses do not lock the owner of the account out at an address that succeeded before.
func TestAuditLockoutFromManyAddresses(t *testing.T) {
	now := newClock()
	s := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	if !visit(t, s) {
		t.Fatal("before the guesses: got the owner refused")
	}
	for n := range 112 {
		guess(t, s, now, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", n/5)))
	}
	if !visit(t, s) {
		t.Error("got the owner refused, want success")
	}
}

// TestAuditLockoutHeals checks security S1: one mistake of the owner does not lock the account months after an attack, when each sign-in since then succeeded.
func TestAuditLockoutHeals(t *testing.T) {
	now := newClock()
	s := servertest.OpenAccounts(t, servertest.AccountsDSN(t), now.Now)
	for range 115 {
		guess(t, s, now, elsewhere)
	}
	for day := range 60 {
		now.add(23 * time.Hour)
		if !visit(t, s) {
			t.Fatalf("day %d: got the owner refused", day)
		}
	}
	servertest.ReserveAndSettle(t, s, "ada", home, accounts.Failed)
	now.add(time.Minute)
	if !visit(t, s) {
		t.Error("a minute after the mistake: got the owner refused, want success")
	}
}

// TestAuditEndedSession checks security S6: a refresh token of a session that has ended neither ends other sessions nor adds to the audit trail.
func TestAuditEndedSession(t *testing.T) {
	s := servertest.OpenAccounts(t, servertest.AccountsDSN(t))
	root := servertest.CreateAccount(t, s, "root", "admin")
	for name, end := range map[string]func(u accounts.User) error{
		"changed": func(u accounts.User) error { return s.ChangePassword(t.Context(), actorOf(u), "another hash") },
		"disabled": func(u accounts.User) error {
			_, err := s.Update(t.Context(), actorOf(root), u.ID, accounts.Patch{Disabled: ptr(true)})
			return err
		},
	} {
		u, stolen := startSession(t, s, name)
		if err := end(u); err != nil {
			t.Fatal(err)
		}
		before, err := s.ByID(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.EndSession(t.Context(), stolen, true, accounts.Actor{Address: elsewhere, RequestID: "thief"}); err != nil {
			t.Fatal(err)
		}
		after, err := s.ByID(t.Context(), u.ID)
		if err != nil || after.TokenVersion != before.TokenVersion {
			t.Errorf("%s: got token version %d and error %v, want version %d, so that other sessions continue", name, after.TokenVersion, err, before.TokenVersion)
		}
	}
	for _, line := range servertest.AuditTrail(t, s) {
		if strings.Contains(line, accounts.ActionSessionsEnded) {
			t.Errorf("got %q in the audit trail, want no such entry", line)
		}
	}
}

// TestAuditSessionLimit checks security S6: the number of sessions of one user has a limit.
func TestAuditSessionLimit(t *testing.T) {
	const started = 300
	dsn := servertest.AccountsDSN(t)
	s := servertest.OpenAccounts(t, dsn)
	u := servertest.CreateAccount(t, s, "ada", "user")
	for range started {
		if _, err := s.StartSession(t.Context(), u, 720*time.Hour); err != nil {
			return // The store can refuse a session as well.
		}
	}
	if n := servertest.CountRows(t, dsn, "sessions"); n >= started {
		t.Errorf("got %d sessions of one user, want fewer than were started", n)
	}
}
