package servertest

import (
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

// LoginFailures returns the sum of all failure counters. Each failure is counted twice: once for the user
// name and the address, and once for the user name and all addresses.
func LoginFailures(t *testing.T, dsn string) (n int) {
	t.Helper()
	if err := OpenSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures) FROM login_attempts`).Scan(&n); err != nil {
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
		entries, next, err := store.Audit(t.Context(), 3, cursor)
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

// ReserveAndSettle makes a login attempt and records its outcome. The test fails if the attempt is not admitted.
func ReserveAndSettle(t *testing.T, store *accounts.Store, name string, address netip.Addr, outcome accounts.Outcome) {
	t.Helper()
	settle, err := store.Reserve(t.Context(), name, address)
	if err == nil {
		err = settle(t.Context(), outcome)
	}
	if err != nil {
		t.Fatalf("login attempt for %s from %s: %v", name, address, err)
	}
}
