package integration

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// accountsDB returns the DSN of a database of the test's own with the tables of shared/accounts.
func accountsDB(t *testing.T) (dsn string) {
	t.Helper()
	admin, dsn := sharedMySQL(t).newDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	return dsn
}

func openAccounts(t *testing.T, dsn string, options ...accounts.Option) *accounts.Store {
	t.Helper()
	store, err := accounts.Open(dsn, options...)
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

func TestProvisionAtOnce(t *testing.T) {
	admin, dsn := sharedMySQL(t).newDatabase(t)
	for round := range 2 { // the second finds everything there
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	db := openSQL(t, admin)
	var versions, distinct int
	err := db.QueryRowContext(t.Context(), `SELECT COUNT(*), COUNT(DISTINCT version_id) FROM `+databaseOf(t, dsn)+`.goose_db_version`).Scan(&versions, &distinct)
	if err != nil || versions != distinct || versions < 3 {
		t.Errorf("%d migrations noted, %d different ones, %v; want each once", versions, distinct, err)
	}
}

func TestMigrateAtOnce(t *testing.T) {
	dsn := sharedMySQL(t).emptyDatabase(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := accounts.Migrate(t.Context(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := openAccounts(t, dsn).Create(t.Context(), "ada", "hash", "user"); err != nil {
		t.Error(err)
	}
	// Whoever goes back to an older version finds tables of a later one, and leaves them as they are.
	if _, err := openSQL(t, dsn).ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := accounts.Migrate(t.Context(), dsn); err != nil {
		t.Errorf("to a version before the tables': %v", err)
	}
}

func openSQL(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestRuntimeUserHasNoDDL(t *testing.T) {
	admin, dsn := sharedMySQL(t).newDatabase(t)
	root := openSQL(t, admin)
	name := databaseOf(t, dsn)
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
	runtime := openSQL(t, dsn)
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
			t.Errorf("%s: %v, want access denied", statement, err)
		}
	}
	store := openAccounts(t, dsn)
	user, err := store.Create(t.Context(), "ada", "hash", "user")
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

func TestUsers(t *testing.T) {
	dsn := accountsDB(t)
	store := openAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "Straße"); !errors.Is(err, problem.NotFound) {
		t.Errorf("before it is made: %v, want problem.NotFound", err)
	}
	made, err := store.Create(t.Context(), "Straße", "first hash", "admin")
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.ByUsername(t.Context(), "STRASSE")
	if err != nil || found != made {
		t.Errorf("found %+v, %v; want %+v", found, err, made)
	}
	if made.Username != "strasse" || made.Role != "admin" || made.Disabled || made.TokenVersion != 1 || made.ID[14] != '7' {
		t.Errorf("made %+v", made)
	}
	// Names that a collation other than utf8mb4_bin takes for the same are not.
	for _, name := range []string{"josé", "jose", "o'brien; -- \\", "\U0001F600"} {
		if _, err := store.Create(t.Context(), name, "hash", "user"); err != nil {
			t.Errorf("Create(%q): %v", name, err)
		}
		if u, err := store.ByUsername(t.Context(), name); err != nil || u.Username != name {
			t.Errorf("ByUsername(%q) = %q, %v", name, u.Username, err)
		}
	}
	if err := store.ReplaceHash(t.Context(), made.ID, "not the first hash", "second hash"); !errors.Is(err, problem.Conflict) {
		t.Errorf("ReplaceHash of another hash: %v, want problem.Conflict", err)
	}
	if err := store.ReplaceHash(t.Context(), made.ID, "first hash", "second hash"); err != nil {
		t.Error(err)
	}
	if _, err := openSQL(t, dsn).ExecContext(t.Context(), `UPDATE users SET disabled_at = '2026-03-01 12:00:00', token_version = 2 WHERE username = 'strasse'`); err != nil {
		t.Fatal(err)
	}
	if u, err := store.ByUsername(t.Context(), "strasse"); err != nil || u.PasswordHash != "second hash" || !u.Disabled || u.TokenVersion != 2 {
		t.Errorf("afterwards %+v, %v; want the second hash, disabled, token version 2", u, err)
	}
}

func TestCreateAtOnce(t *testing.T) {
	dsn := accountsDB(t)
	stores := []*accounts.Store{openAccounts(t, dsn), openAccounts(t, dsn)}
	var made, conflicts atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			switch _, err := stores[i%2].Create(t.Context(), []string{"ada", "ADA"}[i/2%2], "hash", "user"); {
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
		t.Errorf("%d made, %d conflicts; want 1 and 19", made.Load(), conflicts.Load())
	}
}

func TestAccountStoreAwayAndBack(t *testing.T) {
	server := ownMySQL(t)
	admin, dsn := server.newDatabase(t)
	store := openAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("before it is set up: %v, want problem.Unavailable", err)
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	made, err := store.Create(t.Context(), "ada", "hash", "user")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		reserveAndSettle(t, store, "ada", elsewhere, accounts.Failed)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the pooled connections are dead, then there are none
		if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
			t.Errorf("ByUsername while it is away: %v, want problem.Unavailable", err)
		}
		if _, err := store.Reserve(t.Context(), "ada", home); !errors.Is(err, problem.Unavailable) {
			t.Errorf("Reserve while it is away: %v, want problem.Unavailable", err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := store.ByUsername(t.Context(), "ada")
	if err != nil || found != made {
		t.Errorf("back again: %+v, %v; want %+v", found, err, made)
	}
	if got := failuresOf(t, dsn); got != 10 {
		t.Errorf("back again: %d failures counted, want the 5 of the address and the 5 of the user", got)
	}
	reserveAndSettle(t, store, "ada", home, accounts.Succeeded)
}

func failuresOf(t *testing.T, dsn string) (n int) {
	t.Helper()
	if err := openSQL(t, dsn).QueryRowContext(t.Context(), `SELECT SUM(failures) FROM login_attempts`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Everybody else holds the connections that there are.
func TestTooManyConnections(t *testing.T) {
	server := ownMySQL(t)
	admin, dsn := server.newDatabase(t)
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	root := openSQL(t, admin)
	if _, err := root.ExecContext(t.Context(), `SET GLOBAL max_connections = 10`); err != nil {
		t.Fatal(err)
	}
	atEnd(t, "reset max_connections", func(ctx context.Context) error {
		_, err := root.ExecContext(ctx, `SET GLOBAL max_connections = DEFAULT`)
		return err
	})
	others := openSQL(t, dsn)
	for held := 0; ; held++ {
		conn, err := others.Conn(t.Context())
		if err != nil {
			if !strings.Contains(err.Error(), "1040") || held == 0 {
				t.Fatalf("connection %d: %v, want error 1040", held, err)
			}
			break
		}
		defer func() { _ = conn.Close() }()
	}
	store := openAccounts(t, dsn)
	if _, err := store.ByUsername(t.Context(), "ada"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("ByUsername: %v, want problem.Unavailable", err)
	}
}
