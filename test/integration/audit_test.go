package integration

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestNoChangeWithoutAudit proves that no account changes without an audit entry. If the audit table does not exist,
// each change returns problem.Unavailable and leaves the accounts unchanged.
func TestNoChangeWithoutAudit(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	store := servertest.OpenAccounts(t, dsn)
	grace, ada := servertest.CreateAccount(t, store, "grace", "admin"), servertest.CreateAccount(t, store, "ada", "user")
	root := servertest.OpenSQL(t, admin)
	if _, err := root.ExecContext(t.Context(), fmt.Sprintf("RENAME TABLE %[1]s.audit TO %[1]s.elsewhere", servertest.DatabaseName(t, dsn))); err != nil {
		t.Fatal(err)
	}
	by := actorOf(grace)
	_, created := store.Create(t.Context(), by, accounts.NewUser{Username: "eve", PasswordHash: "hash", Role: "user"})
	_, updated := store.Update(t.Context(), by, ada.ID, accounts.Patch{Disabled: ptr(true)})
	for name, err := range map[string]error{
		"create": created, "update": updated, "delete": store.Delete(t.Context(), by, ada.ID),
		"password": store.ChangePassword(t.Context(), by, "x"),
	} {
		if !errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: got error %v, want problem.Unavailable", name, err)
		}
	}
	users, _, err := store.List(t.Context(), 100, "")
	if err != nil || !slices.Equal(users, []accounts.User{ada, grace}) {
		t.Errorf("got the users %+v, %v, want the unchanged users %+v", users, err, []accounts.User{ada, grace})
	}
}

// TestMigrationsRunAgain proves that a migration can run again if it was interrupted after its last statement but
// before its version was recorded.
func TestMigrationsRunAgain(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	if _, err := servertest.OpenSQL(t, admin).ExecContext(t.Context(), "DELETE FROM "+servertest.DatabaseName(t, dsn)+".goose_db_version WHERE version_id >= 3"); err != nil {
		t.Fatal(err)
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	var indexed int
	err := servertest.OpenSQL(t, dsn).QueryRowContext(t.Context(), `SELECT COUNT(*) FROM information_schema.statistics
		WHERE table_schema = DATABASE() AND index_name = 'users_role'`).Scan(&indexed)
	if err != nil || indexed != 2 {
		t.Errorf("columns of the index users_role: got %d, %v, want 2", indexed, err)
	}
}
