package servertest

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/local/store"
)

// MySQLServer is a MySQL or MariaDB server.
type MySQLServer struct {
	Killable // nil if the server is shared with other tests
	AdminDSN string
}

// MySQL returns the MySQL server that all tests use.
func MySQL(t *testing.T) MySQLServer {
	t.Helper()
	if dsn := os.Getenv("MYSQL_ADMIN_DSN"); dsn != "" {
		return MySQLServer{AdminDSN: dsn}
	}
	private, err := privateMariaDB()
	Need(t, "mariadb-server", err)
	return MySQLServer{AdminDSN: private.AdminDSN}
}

// OwnMySQL returns a MySQL server that no other test uses at the same time.
func OwnMySQL(t *testing.T) MySQLServer {
	t.Helper()
	if dsn := os.Getenv("MYSQL_ADMIN_DSN"); dsn != "" && os.Getenv("STORES") != "" {
		return MySQLServer{ownNamed(t, "mysql"), dsn}
	}
	private := own(t, "mariadb-server", "mariadb", store.StartMySQL)
	return MySQLServer{private, private.AdminDSN}
}

// OwnTiDB returns a TiDB server that no other test uses.
func OwnTiDB(t *testing.T) MySQLServer {
	t.Helper()
	private := own(t, "tidb", "tidb", store.StartTiDB)
	return MySQLServer{private, private.AdminDSN}
}

// NewDatabase returns the administrator's DSN, and a DSN for a runtime user and a database that do not exist yet. The
// user and the database are dropped when the test ends.
func (s MySQLServer) NewDatabase(t *testing.T) (admin, runtime string) {
	t.Helper()
	cfg, err := mysql.ParseDSN(s.AdminDSN)
	if err != nil {
		t.Fatalf("parse MYSQL_ADMIN_DSN: %v", err)
	}
	name := UniqueName()
	cfg.User, cfg.Passwd, cfg.DBName = name, "it's a \"runtime\" \\ password", name
	AtEnd(t, "drop MySQL database and user "+name, func(ctx context.Context) error {
		db, err := sql.Open("mysql", s.AdminDSN)
		if err != nil {
			return err
		}
		defer db.Close()
		_, databaseErr := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name)
		_, userErr := db.ExecContext(ctx, "DROP USER IF EXISTS "+name)
		return errors.Join(databaseErr, userErr)
	})
	return s.AdminDSN, cfg.FormatDSN()
}

// EmptyDatabase creates a database and returns the administrator's DSN for it. The database is dropped when the test
// ends.
func (s MySQLServer) EmptyDatabase(t *testing.T) (dsn string) {
	t.Helper()
	admin, runtime := s.NewDatabase(t)
	name := DatabaseName(t, runtime)
	if _, err := OpenSQL(t, admin).ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create MySQL database %s: %v", name, err)
	}
	cfg, err := mysql.ParseDSN(admin)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = name
	return cfg.FormatDSN()
}

// DatabaseName returns the database name in a DSN. In a runtime DSN from NewDatabase, the user name is the same as
// the database name.
func DatabaseName(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.DBName
}

// OpenSQL opens a database directly with the MySQL driver. The connections are closed when the test ends.
func OpenSQL(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// CountRows returns the number of rows in a table.
func CountRows(t *testing.T, dsn, table string) (n int) {
	t.Helper()
	if err := OpenSQL(t, dsn).QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
