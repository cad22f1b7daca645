package integration

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Where the trail can not be written, nothing changes.
func TestNoChangeWithoutAudit(t *testing.T) {
	admin, dsn := sharedMySQL(t).newDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	store := openAccounts(t, dsn)
	grace, ada := createAccount(t, store, "grace", "admin"), createAccount(t, store, "ada", "user")
	root := openSQL(t, admin)
	if _, err := root.ExecContext(t.Context(), fmt.Sprintf("RENAME TABLE %[1]s.audit TO %[1]s.elsewhere", databaseOf(t, dsn))); err != nil {
		t.Fatal(err)
	}
	by := actorOf(grace)
	_, created := store.CreateBy(t.Context(), by, "eve", "hash", "user")
	_, updated := store.Update(t.Context(), by, ada.ID, accounts.Patch{Disabled: ptr(true)})
	for name, err := range map[string]error{
		"create": created, "update": updated, "delete": store.Delete(t.Context(), by, ada.ID),
		"password": store.ChangePassword(t.Context(), by, "x"),
	} {
		if !errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: %v, want problem.Unavailable", name, err)
		}
	}
	users, _, err := store.List(t.Context(), 100, "")
	if err != nil || !slices.Equal(users, []accounts.User{ada, grace}) {
		t.Errorf("users %+v, %v; want both as they were", users, err)
	}
}

// A migration that broke off after its last statement, before it was noted, runs again.
func TestMigrationsRunAgain(t *testing.T) {
	admin, dsn := sharedMySQL(t).newDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	if _, err := openSQL(t, admin).ExecContext(t.Context(), "DELETE FROM "+databaseOf(t, dsn)+".goose_db_version WHERE version_id >= 3"); err != nil {
		t.Fatal(err)
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	var indexed int
	err := openSQL(t, dsn).QueryRowContext(t.Context(), `SELECT COUNT(*) FROM information_schema.statistics
		WHERE table_schema = DATABASE() AND index_name = 'users_role'`).Scan(&indexed)
	if err != nil || indexed != 2 {
		t.Errorf("%d columns of users_role, %v; want 2", indexed, err)
	}
}
