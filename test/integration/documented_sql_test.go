package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/test/docs/commands"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestSetupWithoutAdministrator runs the SQL statements in docs/stores.md. It proves that setup creates the tables as
// the user of the functions, that the user ends with the same privileges as a user that setup creates, and that setup
// then succeeds as long as no migration is pending. If a migration is pending, the last log line names MYSQL_ADMIN_DSN_FILE.
func TestSetupWithoutAdministrator(t *testing.T) {
	server := servertest.MySQL(t)
	admin, dsn := server.NewDatabase(t)
	root := servertest.OpenSQL(t, admin)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Passwd = "documented"
	dsn = cfg.FormatDSN()
	execute := func(first string) {
		t.Helper()
		block, err := commands.Block("../..", "docs/stores.md", "sql", first)
		if err != nil {
			t.Fatal(err)
		}
		for statement := range strings.SplitSeq(strings.TrimSpace(block), ";") {
			statement = strings.NewReplacer("strongroom", cfg.DBName, "PASSWORD", cfg.Passwd).Replace(strings.TrimSpace(statement))
			if statement == "" {
				continue
			}
			if _, err := root.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	binary, mongoURI := build(t, "setup"), servertest.MongoDB(t).NewDatabase(t)
	setup := func(dsn string) (string, error) {
		return runSetup(t.Context(), binary, "MYSQL_DSN="+dsn, "MONGODB_URI="+mongoURI, "ADMIN_USERNAME=root", "ADMIN_PASSWORD=first password")
	}

	const excess = "privileges that the functions do not need"
	execute("CREATE DATABASE")
	if log, err := setup(dsn); err != nil || !strings.Contains(log, excess) {
		t.Fatalf("run setup as a user with all privileges: got error %v and the log\n%s\nwant a warning about the privileges", err, log)
	}
	execute("GRANT SELECT, INSERT")
	_, other := server.NewDatabase(t)
	if err := accounts.Provision(t.Context(), admin, other); err != nil {
		t.Fatal(err)
	}
	grants := func(user string) (lines []string) {
		rows, err := root.QueryContext(t.Context(), "SHOW GRANTS FOR '"+user+"'@'%'")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			line = regexp.MustCompile(` IDENTIFIED BY .*`).ReplaceAllString(line, "") // MariaDB prints the password hash
			lines = append(lines, strings.ReplaceAll(line, user, "strongroom"))
		}
		slices.Sort(lines)
		return lines
	}
	if got, want := grants(cfg.User), grants(servertest.DatabaseName(t, other)); !slices.Equal(got, want) {
		t.Errorf("privileges: got %q, want those of a user that setup creates: %q", got, want)
	}
	if log, err := setup(dsn); err != nil || strings.Contains(log, excess) {
		t.Errorf("run setup with the privileges of the functions: got error %v and the log\n%s\nwant no warning about the privileges", err, log)
	}

	if _, err := root.ExecContext(t.Context(), "DELETE FROM "+cfg.DBName+".goose_db_version ORDER BY version_id DESC LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	log, err := setup(dsn)
	last := log[strings.LastIndex(strings.TrimSpace(log), "\n")+1:]
	if want := "MYSQL_ADMIN_DSN_FILE is not set, and the tables cannot be migrated: MYSQL_DSN_FILE: MySQL denied the user access"; err == nil || !strings.Contains(last, want) {
		t.Errorf("a migration is pending: got error %v and the log\n%s\nwant %q in the last line", err, log, want)
	}
}
