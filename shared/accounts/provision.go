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

// databaseName matches the database names that Provision accepts. None of them needs escaping in any statement.
var databaseName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,62}$`)

// auditTable is the append-only table: the runtime user can read and add rows, and cannot change or remove them.
const auditTable = "audit"

// Provision creates the database and the user that runtimeDSN names, with the privileges of adminDSN. It migrates the
// tables as Migrate does, sets the user's password, and gives the user the privileges to read and write the rows of the
// tables, and to read and add the rows of the audit table. Provision revokes every other privilege and role of that user.
// It can run any number of times, also concurrently. If both DSNs name the same user, Provision does not change that user.
//
// A server that is unavailable is an error that wraps problem.Unavailable. A server that refuses the credentials or a
// privilege of a user is another error, which begins with the name of the setting.
func Provision(ctx context.Context, adminDSN, runtimeDSN string) error {
	runtime, err := parseDSN(runtimeDSN)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN: %w", err)
	}
	if !databaseName.MatchString(runtime.DBName) {
		return fmt.Errorf("MYSQL_DSN: the database name %q has characters other than letters, digits and underscores", runtime.DBName)
	}
	server, err := mysql.ParseDSN(adminDSN)
	if err != nil || server.User == "" {
		return errors.New("MYSQL_ADMIN_DSN: invalid DSN: want user:password@tcp(host:3306)/")
	}
	// The administrator works in the runtime user's database, whichever database the administrator's DSN names.
	server.DBName = runtime.DBName
	admin, err := parseDSN(server.FormatDSN())
	if err != nil {
		return fmt.Errorf("MYSQL_ADMIN_DSN: %w", err)
	}
	err = withServer(ctx, admin, func(conn *sql.Conn) error { return createDatabase(ctx, conn, runtime.DBName) })
	if err != nil {
		return Refused("MYSQL_ADMIN_DSN", fail("create the database", err))
	}
	if err := migrate(ctx, admin); err != nil {
		return Refused("MYSQL_ADMIN_DSN", err)
	}
	if runtime.User == admin.User {
		slog.WarnContext(ctx, "the functions use the administrator's MySQL user, whose privileges setup does not change", "user", admin.User)
		return nil
	}
	err = withServer(ctx, admin, func(conn *sql.Conn) error { return createUser(ctx, conn, runtime) })
	if err != nil {
		return Refused("MYSQL_ADMIN_DSN", fail("create the runtime user", err))
	}
	return checkAppendOnly(ctx, runtime)
}

// withServer calls do with a connection that has no database selected and that holds the lock of cfg's database.
func withServer(ctx context.Context, cfg *mysql.Config, do func(conn *sql.Conn) error) (err error) {
	database := cfg.DBName
	cfg = cfg.Clone()
	cfg.DBName = ""
	cfg.ReadTimeout = max(cfg.ReadTimeout, ioTimeout) // longer than lockPoll
	db, err := openDB(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return withLock(ctx, db, database, do)
}

func createDatabase(ctx context.Context, conn *sql.Conn, name string) error {
	_, err := conn.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+name+"` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
	return err
}

// createUser creates the user of cfg, or updates its password and its privileges. All privileges are granted table by
// table, before any privilege is revoked: functions that are running never lack a privilege, and no statement revokes a
// privilege that the user does not have, which MySQL refuses (error 1147).
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
			continue
		case auditTable:
			privileges = privileges[:2]
		}
		name := "`" + cfg.DBName + "`.`" + strings.ReplaceAll(table, "`", "``") + "`"
		grants = append(grants, "GRANT "+strings.Join(privileges, ", ")+" ON "+name+" TO ?@'%'")
		wanted[tableKey(cfg.DBName+"."+table)] = privileges
	}
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
	// MySQL 9.7 silently keeps dynamic privileges if somebody has revoked only their grant option before. Only these
	// statements revoke them, and the user lacks all privileges for a moment.
	return execAll(ctx, conn, append([]string{"REVOKE ALL PRIVILEGES, GRANT OPTION FROM ?@'%'"}, grants...), cfg.User)
}

// excess returns the statements that revoke every privilege and role of the user that is not in wanted, which maps a
// tableKey to privileges. They revoke what SHOW GRANTS lists, in the server's own words: servers differ in the privileges
// that they know, and in whether REVOKE accepts a privilege that the user does not have.
func excess(ctx context.Context, conn *sql.Conn, user string, wanted map[string][]string) ([]string, error) {
	rows, err := conn.QueryContext(ctx, "SHOW GRANTS FOR ?@'%'", user)
	if err != nil {
		return nil, fmt.Errorf("list the privileges: %w", err)
	}
	var grants []grant
	lines, err := collect(rows, func(row scanner) (line string, err error) {
		err = row.Scan(&line)
		return line, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the privileges: %w", err)
	}
	for _, line := range lines {
		if g, ok := parseGrant(line); ok {
			grants = append(grants, g)
		}
	}
	return reduce(grants, wanted), nil
}

// execAll executes statements. The driver interpolates and quotes the arguments: the server cannot prepare statements on
// users and privileges.
func execAll(ctx context.Context, conn *sql.Conn, statements []string, args ...any) error {
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement, args...); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// checkAppendOnly signs in as the runtime user and returns an error if that user can change rows of the audit table, as
// through a role that every user has, or through another account with the same name and a narrower host.
func checkAppendOnly(ctx context.Context, runtime *mysql.Config) (err error) {
	db, err := openDB(runtime)
	if err != nil {
		return fmt.Errorf("MYSQL_DSN: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, statement := range []string{"UPDATE audit SET id = id WHERE FALSE", "DELETE FROM audit WHERE FALSE"} {
		_, err := db.ExecContext(ctx, statement)
		var refused *mysql.MySQLError
		switch {
		case err == nil:
			return fmt.Errorf("MYSQL_DSN: the user %s can change the audit table: "+
				"revoke the privileges that SHOW GRANTS lists for that user, its roles, and its accounts for other hosts", runtime.User)
		case errors.As(err, &refused) && (refused.Number == errTableAccessDenied || refused.Number == errTiDBAccessDenied):
		default:
			return Refused("MYSQL_DSN", fail("check the audit table's privileges", err))
		}
	}
	return nil
}

// tablesOf returns the names of the tables of a database.
func tablesOf(ctx context.Context, conn *sql.Conn, database string) ([]string, error) {
	rows, err := conn.QueryContext(ctx, `SELECT table_name FROM information_schema.tables
		WHERE table_schema = ? AND table_type = 'BASE TABLE' ORDER BY table_name`, database)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(row scanner) (name string, err error) {
		err = row.Scan(&name)
		return name, err
	})
}
