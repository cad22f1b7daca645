package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
)

func needMariaDB(t *testing.T) {
	t.Helper()
	install, err := FindMySQL(t.Context())
	if err == nil && install.Kind != "mariadbd" {
		t.Skipf("NOT TESTED: found only %s; install Debian's mariadb-server-core and mariadb-client-core", install.Server)
	}
	need(t, err, "install Debian's mariadb-server-core and mariadb-client-core")
}

func TestMariaDB(t *testing.T) {
	needMariaDB(t)
	testMySQL(t, func(ctx context.Context, dir string) (*MySQL, error) { return StartMySQL(ctx, dir, t.Output()) })
}

// TestMariaDBSharesNoTemporaryDirectory starts a server while another one has a temporary table. A server that starts
// deletes the temporary tables in its TMPDIR.
func TestMariaDBSharesNoTemporaryDirectory(t *testing.T) {
	needMariaDB(t)
	shared := t.TempDir()
	t.Setenv("TMPDIR", shared)
	table := filepath.Join(shared, "#sql-temptable-1-1-1.MAI")
	if err := os.WriteFile(table, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := StartMySQL(t.Context(), t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(table); err != nil {
		t.Errorf("the other server lost its table: %v", err)
	}
}

// TestDatabaseThatCannotBeCreated runs a script instead of the program that creates the database files.
func TestDatabaseThatCannotBeCreated(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no space left\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, install := range map[string]MySQLInstall{
		"MariaDB": {Kind: "mariadbd", InstallDB: script}, "MySQL": {Kind: "mysqld", Server: script},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := new(MySQL).prepare(t.Context(), install, dir, t.Output())
			if want := "script: exit status 3: no space left"; err == nil || err.Error() != want {
				t.Errorf("got %v, want %q", err, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "data")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("data directory: got %v, want %v, because the next start must create the files", err, os.ErrNotExist)
			}
		})
	}
}

// testMySQL runs testServer on a server with the MySQL protocol. It also checks that the server requires the password
// and handles concurrent increments correctly. Accounts and counters depend on this.
func testMySQL(t *testing.T, start func(ctx context.Context, dir string) (*MySQL, error)) {
	testServer(t, func(ctx context.Context, dir string) (instance, numbers, error) {
		server, err := start(ctx, dir)
		if err != nil {
			return nil, nil, err
		}
		return server, rows{openMySQL(t, server.AdminDSN)}, nil
	})
	server, err := start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	t.Run("concurrent increments", func(t *testing.T) { testCounter(t, openMySQL(t, server.AdminDSN)) })
	t.Run("requires the password", func(t *testing.T) {
		for _, account := range []struct{ user, password string }{{"root", ""}, {"root", "wrong"}, {"", ""}, {"anyone", ""}} {
			config, err := mysql.ParseDSN(server.AdminDSN)
			if err != nil {
				t.Fatal(err)
			}
			config.User, config.Passwd, config.DBName = account.user, account.password, ""
			if err := openMySQL(t, config.FormatDSN()).PingContext(t.Context()); err == nil {
				t.Errorf("user %q could sign in with password %q", account.user, account.password)
			}
		}
	})
}

// testCounter runs 200 concurrent increments and checks that none is lost.
func testCounter(t *testing.T, db *sql.DB) {
	const clients = 200
	ctx := t.Context()
	db.SetMaxOpenConns(50)
	for _, statement := range []string{"CREATE TABLE counter (n INT NOT NULL)", "INSERT INTO counter VALUES (0)"} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			if _, err := db.ExecContext(ctx, "UPDATE counter SET n = n + 1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	var got int
	if err := db.QueryRowContext(ctx, "SELECT n FROM counter").Scan(&got); err != nil || got != clients {
		t.Errorf("got %d and error %v after %d increments", got, err, clients)
	}
}

func openMySQL(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// rows stores numbers in a table.
type rows struct{ db *sql.DB }

func (r rows) add(ctx context.Context, i int) error {
	if i == 0 {
		if _, err := r.db.ExecContext(ctx, "CREATE TABLE numbers (i INT PRIMARY KEY)"); err != nil {
			return err
		}
	}
	_, err := r.db.ExecContext(ctx, "INSERT INTO numbers VALUES (?)", i)
	return err
}

func (r rows) all(ctx context.Context) (map[int]bool, error) {
	found := map[int]bool{}
	var tables int
	const exists = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'numbers'"
	if err := r.db.QueryRowContext(ctx, exists).Scan(&tables); err != nil || tables == 0 {
		return found, err
	}
	result, err := r.db.QueryContext(ctx, "SELECT i FROM numbers")
	if err != nil {
		return nil, err
	}
	defer result.Close()
	for result.Next() {
		var i int
		if err := result.Scan(&i); err != nil {
			return nil, err
		}
		found[i] = true
	}
	return found, result.Err()
}

func TestTiDB(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED: building TiDB takes minutes; run without -short")
	}
	if _, err := Build(t.Context(), "tidb", t.Output()); err != nil { // the build can outlast startTimeout
		t.Fatal(err)
	}
	testMySQL(t, func(ctx context.Context, dir string) (*MySQL, error) { return StartTiDB(ctx, dir, t.Output()) })
}
