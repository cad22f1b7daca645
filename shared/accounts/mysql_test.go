package accounts_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestProvisionAtOnce proves that concurrent calls of Provision succeed, with an empty server and with an existing
// database, and that each migration runs once.
func TestProvisionAtOnce(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	for round := range 2 { // in the second round, the database exists
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
					t.Errorf("Provision in round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	db := servertest.OpenSQL(t, admin)
	var versions, distinct int
	err := db.QueryRowContext(t.Context(), `SELECT COUNT(*), COUNT(DISTINCT version_id) FROM `+servertest.DatabaseName(t, dsn)+`.goose_db_version`).Scan(&versions, &distinct)
	if err != nil || versions != distinct || versions < 3 {
		t.Errorf("got %d recorded migrations with %d different versions, %v, want each version once", versions, distinct, err)
	}
}

// TestMigrateAtOnce proves that concurrent calls of Migrate succeed, and that Migrate accepts a database with the
// migrations of a later version.
func TestMigrateAtOnce(t *testing.T) {
	dsn := servertest.MySQL(t).EmptyDatabase(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := accounts.Migrate(t.Context(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := servertest.OpenAccounts(t, dsn).Create(t.Context(), accounts.Setup, accounts.NewUser{Username: "ada", PasswordHash: "hash", Role: "user"}); err != nil {
		t.Error(err)
	}
	// After a downgrade of the program, the database has migrations that the program does not contain. Migrate ignores
	// them.
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := accounts.Migrate(t.Context(), dsn); err != nil {
		t.Errorf("Migrate with a later schema version: %v", err)
	}
}

// TestRuntimeUserHasNoDDL proves that after Provision, the runtime user can change rows but not the schema, users or
// privileges. This also applies to a user that had all privileges before.
func TestRuntimeUserHasNoDDL(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	root := servertest.OpenSQL(t, admin)
	name := servertest.DatabaseName(t, dsn)
	database := "`" + strings.ReplaceAll(name, "_", `\_`) + "`.*"
	// The user already exists, with another password and all privileges, like the user that the official images create.
	for _, statement := range []string{
		"CREATE DATABASE " + name,
		"CREATE USER " + name + "@'%' IDENTIFIED BY 'another'",
		"GRANT ALL PRIVILEGES ON " + database + " TO " + name + "@'%' WITH GRANT OPTION",
	} {
		if _, err := root.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	runtime := servertest.OpenSQL(t, dsn)
	for _, statement := range []string{
		`CREATE TABLE mine (id INT)`,
		`CREATE TEMPORARY TABLE mine (id INT)`,
		`CREATE VIEW mine AS SELECT 1`,
		`ALTER TABLE users ADD COLUMN mine INT`,
		`CREATE INDEX mine ON users (role)`,
		`CREATE TRIGGER mine BEFORE INSERT ON users FOR EACH ROW SET NEW.role = 'admin'`,
		`DROP TABLE users`,
		`TRUNCATE TABLE users`,
		`CREATE DATABASE mine`,
		`CREATE USER mine`,
		"GRANT SELECT ON " + database + " TO " + name + "@'%'",
		`SELECT * FROM mysql.global_priv`,
		`SELECT * FROM strongroom.users`,
	} {
		_, err := runtime.ExecContext(t.Context(), statement)
		var server *mysql.MySQLError
		if !errors.As(err, &server) || !slices.Contains([]uint16{1044, 1142, 1227, 1419}, server.Number) {
			t.Errorf("%s: got error %v, want access denied", statement, err)
		}
	}
	store := servertest.OpenAccounts(t, dsn)
	user, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: "ada", PasswordHash: "hash", Role: "user"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.ReplaceHash(t.Context(), user.ID, "hash", "other hash"); err != nil {
		t.Error(err)
	}
	if _, err := runtime.ExecContext(t.Context(), `DELETE FROM users`); err != nil {
		t.Error(err)
	}
}

// TestUsers proves that users can be created, found by name and changed. Names are compared after case folding, but
// accents are significant. ReplaceHash requires the current hash.
func TestUsers(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	store := servertest.OpenAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "Straße"); !errors.Is(err, problem.NotFound) {
		t.Errorf("ByUsername before Create: got error %v, want problem.NotFound", err)
	}
	made, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: "Straße", PasswordHash: "first hash", Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.ByUsername(t.Context(), "STRASSE")
	if err != nil || found != made {
		t.Errorf("ByUsername: got %+v, %v, want %+v", found, err, made)
	}
	if made.Username != "strasse" || made.Role != "admin" || made.Disabled || made.TokenVersion != 1 || made.ID[14] != '7' {
		t.Errorf("Create: got %+v, want an enabled admin strasse with token version 1 and a UUIDv7", made)
	}
	// These names are all different. Collations other than utf8mb4_bin treat some of them as equal.
	for _, name := range []string{"josé", "jose", "o'brien; -- \\", "\U0001F600"} {
		if _, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: name, PasswordHash: "hash", Role: "user"}); err != nil {
			t.Errorf("create user %q: %v", name, err)
		}
		if u, err := store.ByUsername(t.Context(), name); err != nil || u.Username != name {
			t.Errorf("ByUsername(%q): got %q, %v", name, u.Username, err)
		}
	}
	if err := store.ReplaceHash(t.Context(), made.ID, "not the first hash", "second hash"); !errors.Is(err, problem.Conflict) {
		t.Errorf("ReplaceHash with a wrong current hash: got error %v, want problem.Conflict", err)
	}
	if err := store.ReplaceHash(t.Context(), made.ID, "first hash", "second hash"); err != nil {
		t.Error(err)
	}
	if _, err := servertest.OpenSQL(t, dsn).ExecContext(t.Context(), `UPDATE users SET disabled_at = '2026-03-01 12:00:00', token_version = 2 WHERE username = 'strasse'`); err != nil {
		t.Fatal(err)
	}
	if u, err := store.ByUsername(t.Context(), "strasse"); err != nil || u.PasswordHash != "second hash" || !u.Disabled || u.TokenVersion != 2 {
		t.Errorf("changed user: got %+v, %v, want the second hash, disabled, token version 2", u, err)
	}
}

// TestCreateAtOnce proves that exactly one of 20 concurrent calls of Create with the same name succeeds, on two
// replicas.
func TestCreateAtOnce(t *testing.T) {
	dsn := servertest.AccountsDSN(t)
	stores := []*accounts.Store{servertest.OpenAccounts(t, dsn), servertest.OpenAccounts(t, dsn)}
	var made, conflicts atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			switch _, err := stores[i%2].Create(t.Context(), accounts.Setup, accounts.NewUser{Username: []string{"ada", "ADA"}[i/2%2], PasswordHash: "hash", Role: "user"}); {
			case err == nil:
				made.Add(1)
			case errors.Is(err, problem.Conflict):
				conflicts.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || conflicts.Load() != 19 {
		t.Errorf("got %d created users and %d conflicts, want 1 and 19", made.Load(), conflicts.Load())
	}
}

// TestAccountStoreUnavailable proves that the account store returns problem.Unavailable before setup and while MySQL is
// down. After the restart, the same store works again, and no user and no failed login attempt is lost.
func TestAccountStoreUnavailable(t *testing.T) {
	server := servertest.OwnMySQL(t)
	admin, dsn := server.NewDatabase(t)
	store := servertest.OpenAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("ByUsername before setup: got error %v, want problem.Unavailable", err)
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	made, err := store.Create(t.Context(), accounts.Setup, accounts.NewUser{Username: "ada", PasswordHash: "hash", Role: "user"})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		servertest.Attempt(t, store, "ada", elsewhere, false)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first calls use broken connections of the pool; later calls cannot connect
		if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
			t.Errorf("ByUsername while MySQL is down: got error %v, want problem.Unavailable", err)
		}
		if _, err := store.Attempt(t.Context(), accounts.Attempt{Username: "ada", Address: home}, right); !errors.Is(err, problem.Unavailable) {
			t.Errorf("Attempt while MySQL is down: got error %v, want problem.Unavailable", err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := store.ByUsername(t.Context(), "ada")
	if err != nil || found != made {
		t.Errorf("ByUsername after the restart: got %+v, %v, want %+v", found, err, made)
	}
	if got := servertest.LoginFailures(t, dsn); got != 5 {
		t.Errorf("after the restart: got %d counted failures, want 5", got)
	}
	servertest.Attempt(t, store, "ada", home, true)
}

// TestTooManyConnections proves that the account store returns problem.Unavailable if other clients use all connections
// that MySQL permits (error 1040).
func TestTooManyConnections(t *testing.T) {
	server := servertest.OwnMySQL(t)
	admin, dsn := server.NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	root := servertest.OpenSQL(t, admin)
	if _, err := root.ExecContext(t.Context(), `SET GLOBAL max_connections = 10`); err != nil {
		t.Fatal(err)
	}
	servertest.AtEnd(t, "reset max_connections", func(ctx context.Context) error {
		_, err := root.ExecContext(ctx, `SET GLOBAL max_connections = DEFAULT`)
		return err
	})
	others := servertest.OpenSQL(t, dsn)
	for held := 0; ; held++ {
		conn, err := others.Conn(t.Context())
		if err != nil {
			if !strings.Contains(err.Error(), "1040") || held == 0 {
				t.Fatalf("open connection %d: got error %v, want error 1040", held, err)
			}
			break
		}
		defer func() { _ = conn.Close() }()
	}
	store := servertest.OpenAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("ByUsername: got error %v, want problem.Unavailable", err)
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
