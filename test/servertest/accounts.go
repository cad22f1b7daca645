package servertest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/accounts"
)

// AccountsDSN creates a database with the tables of package accounts and returns the DSN of its runtime user.
func AccountsDSN(t *testing.T) (dsn string) {
	t.Helper()
	admin, dsn := MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	return dsn
}

// OpenAccounts opens an account store. The store is closed when the test ends. The default for clock is time.Now.
func OpenAccounts(t *testing.T, dsn string, clock ...func() time.Time) *accounts.Store {
	t.Helper()
	store, err := accounts.Open(dsn, append(clock, time.Now)[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close the account store: %v", err)
		}
	})
	return store
}

// LoginFailures returns the sum of all failure counters.
func LoginFailures(t *testing.T, dsn string) (n int) {
	t.Helper()
	if err := OpenSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures) FROM attempt_counters`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// CreateAccount creates a user with the given role.
func CreateAccount(t *testing.T, store *accounts.Store, name, role string) accounts.User {
	t.Helper()
	u, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: name, PasswordHash: "hash of " + name, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// AuditTrail returns all audit entries in the form "actor action user role", oldest first. It reads them in small
// pages.
func AuditTrail(t *testing.T, store *accounts.Store) (lines []string) {
	t.Helper()
	for cursor := ""; ; {
		entries, next, err := store.Audit(t.Context(), accounts.AuditFilter{}, 3, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			line := e.ActorName + " " + e.Action + " " + e.Username
			if e.Role != "" {
				line += " " + e.Role
			}
			lines = append(lines, line)
		}
		if next == "" {
			slices.Reverse(lines)
			return lines
		}
		cursor = next
	}
}

// Attempt makes a sign-in attempt with the right or a wrong password. The test fails if the attempt is not admitted.
func Attempt(t *testing.T, store *accounts.Store, name string, address netip.Addr, right bool) {
	t.Helper()
	_, err := store.Attempt(t.Context(), accounts.Attempt{Username: name, Address: address},
		func(context.Context, accounts.User) (bool, error) { return right, nil })
	if right && err != nil || !right && !errors.Is(err, accounts.ErrBadCredentials) {
		t.Fatalf("attempt with the right password (%t) for %s from %s: got error %v", right, name, address, err)
	}
}
