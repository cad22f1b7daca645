package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/pressly/goose/v3"
)

// databaseName matches the database names that Provision accepts. It matches only names that need no escaping,
// because Provision inserts the name into SQL statements without escaping it.
var databaseName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,62}$`)

// auditTable is the name of the append-only table for the audit trail. The serverless functions' MySQL user can read
// and insert rows, but cannot change or delete them.
const auditTable = "audit"

// Provision creates the database and the MySQL user that runtimeDSN names, and applies all pending migrations. It
// connects as the administrator that adminDSN names. It can be called repeatedly and concurrently.
func Provision(ctx context.Context, adminDSN, runtimeDSN string) error {
	runtime, err := parseDSN(runtimeDSN)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	if !databaseName.MatchString(runtime.DBName) {
		return fmt.Errorf("MYSQL_DSN_FILE: invalid database name %q: want a letter followed by at most 62 letters, digits or underscores", runtime.DBName)
	}
	admin, err := adminConfig(adminDSN, runtime.DBName)
	if err != nil {
		return err
	}
	err = withServer(ctx, admin, func(conn *sql.Conn) error { return createDatabase(ctx, conn, runtime.DBName) })
	if err != nil {
		return Refused("MYSQL_ADMIN_DSN_FILE", fail("create database "+runtime.DBName, err))
	}
	if err := migrate(ctx, admin, goose.MaxVersion); err != nil {
		return Refused("MYSQL_ADMIN_DSN_FILE", err)
	}
	if runtime.User == admin.User {
		slog.WarnContext(ctx, "MYSQL_DSN_FILE and MYSQL_ADMIN_DSN_FILE name the same MySQL user, so setup does not change that user's privileges", "user", admin.User)
		return nil
	}
	err = withServer(ctx, admin, func(conn *sql.Conn) error { return createUser(ctx, conn, runtime) })
	if err != nil {
		return Refused("MYSQL_ADMIN_DSN_FILE", fail("create user "+runtime.User, err))
	}
	return checkAppendOnly(ctx, runtime)
}

// adminConfig returns the configuration of a connection to a database as the administrator that adminDSN names. It ignores
// the database in adminDSN, because the administrator changes the database of the functions.
func adminConfig(adminDSN, database string) (*mysql.Config, error) {
	server, err := mysql.ParseDSN(adminDSN)
	if err != nil || server.User == "" {
		return nil, errors.New("MYSQL_ADMIN_DSN_FILE: invalid DSN: want user:password@tcp(host:3306)/")
	}
	server.DBName = database
	cfg, err := parseDSN(server.FormatDSN())
	if err != nil {
		return nil, fmt.Errorf("MYSQL_ADMIN_DSN_FILE: %w", err)
	}
	return cfg, nil
}

// withServer connects to the server in cfg, and acquires the lock for changes to the database in cfg. It then calls
// the action function with the connection that holds the lock.
func withServer(ctx context.Context, cfg *mysql.Config, action func(conn *sql.Conn) error) (err error) {
	database := cfg.DBName
	cfg = cfg.Clone()
	// Do not select the database, because it might not exist yet.
	cfg.DBName = ""
	// The read timeout must be longer than lockPoll, because the server can take that long to respond to GET_LOCK.
	cfg.ReadTimeout = max(cfg.ReadTimeout, ioTimeout)
	db, err := openDB(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return withLock(ctx, db, database, action)
}

func createDatabase(ctx context.Context, conn *sql.Conn, name string) error {
	_, err := conn.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+name+"` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
	return err
}

// createUser creates the MySQL user in cfg if the user does not exist, and sets the user's password and privileges.
// It revokes all other privileges and roles.
func createUser(ctx context.Context, conn *sql.Conn, cfg *mysql.Config) error {
	tables, err := tablesOf(ctx, conn, cfg.DBName)
	if err != nil {
		return err
	}
	err = execAll(ctx, conn, []string{"CREATE USER IF NOT EXISTS ?@'%' IDENTIFIED BY ?", "ALTER USER ?@'%' IDENTIFIED BY ?"}, cfg.User, cfg.Passwd)
	if err != nil {
		return err
	}
	wanted := map[string][]string{}
	var grants []string
	for _, table := range tables {
		privileges := []string{"SELECT", "INSERT", "UPDATE", "DELETE"}
		switch table {
		case goose.DefaultTablename:
			// Migrate reads this table. Without the privilege, setup would require the administrator even if no
			// migration is pending.
			privileges = privileges[:1]
		case auditTable:
			privileges = privileges[:2]
		}
		name := "`" + cfg.DBName + "`.`" + strings.ReplaceAll(table, "`", "``") + "`"
		grants = append(grants, "GRANT "+strings.Join(privileges, ", ")+" ON "+name+" TO ?@'%'")
		wanted[tableKey(cfg.DBName+"."+table)] = privileges
	}
	// Grant the required privileges before revoking all others, so that serverless functions that are already
	// running do not lose access.
	if err := execAll(ctx, conn, grants, cfg.User); err != nil {
		return err
	}
	for range 2 {
		statements, err := excess(ctx, conn, cfg.User, wanted)
		if err != nil || len(statements) == 0 {
			return err
		}
		if err := execAll(ctx, conn, statements); err != nil {
			return err
		}
	}
	// In MySQL 9.7, only REVOKE ALL PRIVILEGES revokes a dynamic privilege whose grant option was revoked earlier.
	// REVOKE ALL PRIVILEGES is the last resort, because the user has no access until the GRANT statements have run.
	return execAll(ctx, conn, append([]string{"REVOKE ALL PRIVILEGES, GRANT OPTION FROM ?@'%'"}, grants...), cfg.User)
}

// excess returns the statements that revoke all of a user's privileges and roles, except the wanted privileges
// (see reduce).
func excess(ctx context.Context, conn *sql.Conn, user string, wanted map[string][]string) ([]string, error) {
	// Revoke only privileges that SHOW GRANTS lists for the user. A server can reject a REVOKE statement for a
	// privilege that the server does not support or that the user does not have (MySQL error 1147).
	lines, err := queryAll(ctx, conn, scanValue[string], "SHOW GRANTS FOR ?@'%'", user)
	if err != nil {
		return nil, fmt.Errorf("list the privileges of MySQL user %s: %w", user, err)
	}
	var grants []grant
	for _, line := range lines {
		if g, ok := parseGrant(line); ok {
			grants = append(grants, g)
		}
	}
	return reduce(grants, wanted), nil
}

// execAll executes statements in order. The driver inserts the arguments into each statement as quoted text, because
// servers cannot prepare statements that change users and privileges.
func execAll(ctx context.Context, conn *sql.Conn, statements []string, args ...any) error {
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement, args...); err != nil {
			return fmt.Errorf("execute %q: %w", statement, err)
		}
	}
	return nil
}

// CheckAppendOnly returns an error if the user in dsn can change or delete rows in the audit table.
func CheckAppendOnly(ctx context.Context, dsn string) error {
	runtime, err := parseDSN(dsn)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	return checkAppendOnly(ctx, runtime)
}

// checkAppendOnly returns an error if the runtime user can change or delete rows in the audit table.
func checkAppendOnly(ctx context.Context, runtime *mysql.Config) (err error) {
	db, err := openDB(runtime)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN_FILE: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// Execute statements that change no rows to find out whether the user still has the privilege to change or
	// delete rows. The privilege can come from a role that every user has, or from an account with a more specific host.
	for _, statement := range []string{"UPDATE audit SET id = id WHERE FALSE", "DELETE FROM audit WHERE FALSE"} {
		_, err := db.ExecContext(ctx, statement)
		var refused *mysql.MySQLError
		switch {
		case err == nil:
			return fmt.Errorf("MYSQL_DSN_FILE: user %s can change or delete rows in the audit table: "+
				"revoke the UPDATE and DELETE privileges that SHOW GRANTS lists for the user, for the user's roles, and for accounts with the same user name and another host", runtime.User)
		case errors.As(err, &refused) && (refused.Number == errTableAccessDenied || refused.Number == errTiDBAccessDenied):
		default:
			return Refused("MYSQL_DSN_FILE", fail("check privileges on the audit table", err))
		}
	}
	return nil
}

// tablesOf returns the names of the tables in a database, excluding views.
func tablesOf(ctx context.Context, conn *sql.Conn, database string) ([]string, error) {
	return queryAll(ctx, conn, scanValue[string], tablesQuery, database)
}

// tablesQuery selects the names of the tables in a database, excluding views.
const tablesQuery = `SELECT table_name FROM information_schema.tables
	WHERE table_schema = ? AND table_type = 'BASE TABLE' ORDER BY table_name`
