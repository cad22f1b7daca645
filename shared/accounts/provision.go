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

// databaseName is what a database may be called that Provision makes: nothing that needs quoting anywhere.
var databaseName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,62}$`)

// Provision makes, with the rights of adminDSN, the database and the user that runtimeDSN names: the tables as by
// Migrate, the user with that password and with the right to read and write rows of that database and nothing else;
// of the audit trail, to read and add rows. It may run any number of times, also side by side. Where both DSNs name the
// same user it leaves the user alone.
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
	// The administrator works in the runtime user's database, whichever its own DSN names.
	server.DBName = runtime.DBName
	admin, err := parseDSN(server.FormatDSN())
	if err != nil {
		return fmt.Errorf("MYSQL_ADMIN_DSN: %w", err)
	}
	if err := withServer(ctx, admin, func(conn *sql.Conn) error { return createDatabase(ctx, conn, runtime.DBName) }); err != nil {
		return fail("create the account store", err)
	}
	if err := migrate(ctx, admin); err != nil {
		return err
	}
	if runtime.User == admin.User {
		slog.WarnContext(ctx, "the functions use the administrator's MySQL user; it keeps its rights", "user", admin.User)
		return nil
	}
	err = withServer(ctx, admin, func(conn *sql.Conn) error { return createUser(ctx, conn, runtime) })
	return fail("create the runtime user", err)
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

// createUser makes the user of cfg, or brings its password and its rights up to date.
func createUser(ctx context.Context, conn *sql.Conn, cfg *mysql.Config) error {
	tables, err := tablesOf(ctx, conn, cfg.DBName)
	if err != nil {
		return err
	}
	type statement struct {
		text string
		args []any
	}
	// The driver interpolates and quotes the parameters; the server would not prepare these statements.
	statements := []statement{
		{"CREATE USER IF NOT EXISTS ?@'%' IDENTIFIED BY ?", []any{cfg.User, cfg.Passwd}},
		{"ALTER USER ?@'%' IDENTIFIED BY ?", []any{cfg.User, cfg.Passwd}},
	}
	for _, table := range tables {
		name := "`" + cfg.DBName + "`.`" + table + "`"
		switch table {
		case goose.DefaultTablename:
		case "audit": // append-only, whatever right there was before
			statements = append(statements,
				statement{"GRANT INSERT ON " + name + " TO ?@'%'", []any{cfg.User}},
				statement{"REVOKE UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE VIEW, TRIGGER, GRANT OPTION ON " +
					name + " FROM ?@'%'", []any{cfg.User}})
		default:
			statements = append(statements, statement{"GRANT INSERT, UPDATE, DELETE ON " + name + " TO ?@'%'", []any{cfg.User}})
		}
	}
	// In a GRANT on a database the underscore stands for any character, unless escaped.
	database := "`" + strings.ReplaceAll(cfg.DBName, "_", `\_`) + "`.*"
	statements = append(statements,
		statement{"GRANT SELECT ON " + database + " TO ?@'%'", []any{cfg.User}},
		// Whoever made the user before may have given it more: the official images give it all rights. This comes last, so
		// that functions at work never lack a right.
		statement{"REVOKE INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, CREATE VIEW, " +
			"CREATE ROUTINE, ALTER ROUTINE, TRIGGER, EVENT, GRANT OPTION ON " + database + " FROM ?@'%'", []any{cfg.User}})
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement.text, statement.args...); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(strings.Fields(statement.text)[:2], " "), err)
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
