package accounts_test

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/strongroom-dev/strongroom/shared/accounts"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestAuditIsAppendOnly proves that setup reduces the privileges of the runtime user to those that the functions need,
// so that the user can insert audit entries but cannot change or delete them. The test grants excess privileges in
// every way that the servers support.
func TestAuditIsAppendOnly(t *testing.T) {
	servers := map[string]func(t *testing.T) servertest.MySQLServer{
		"MySQL or MariaDB": servertest.MySQL,
		"TiDB":             servertest.OwnTiDB,
	}
	for name, server := range servers {
		t.Run(name, func(t *testing.T) {
			admin, dsn := server(t).NewDatabase(t)
			cfg, err := mysql.ParseDSN(dsn)
			if err != nil {
				t.Fatal(err)
			}
			if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
				t.Fatal(err)
			}
			root, db := servertest.OpenSQL(t, admin), cfg.DBName
			user, role := "'"+cfg.User+"'@'%'", servertest.UniqueName()
			for _, privileges := range []struct {
				name       string
				statements []string
			}{
				{"none", nil},
				{"grants of an earlier version", []string{"GRANT SELECT ON `" + strings.ReplaceAll(db, "_", `\_`) + "`.* TO " + user}},
				{"on the table", []string{"GRANT UPDATE, DELETE ON " + db + ".audit TO " + user}},
				{"on a column", []string{"GRANT UPDATE (actor_name) ON " + db + ".audit TO " + user}},
				{"all on the table", []string{"GRANT ALL PRIVILEGES ON " + db + ".audit TO " + user + " WITH GRANT OPTION"}},
				{"all on the database", []string{"GRANT ALL PRIVILEGES ON " + db + ".* TO " + user + " WITH GRANT OPTION"}},
				{"all on databases by pattern", []string{"GRANT ALL PRIVILEGES ON `" + db[:len(db)-1] + "_`.* TO " + user}},
				{"some on the server", []string{"GRANT UPDATE, PROCESS ON *.* TO " + user}},
				{"all on the server", []string{"GRANT ALL PRIVILEGES ON *.* TO " + user + " WITH GRANT OPTION"}},
				{"all on the server, without the grant option", []string{"GRANT ALL PRIVILEGES ON *.* TO " + user + " WITH GRANT OPTION", "REVOKE GRANT OPTION ON *.* FROM " + user}},
				{"on another table", []string{"GRANT SELECT, DELETE ON " + db + ".goose_db_version TO " + user}},
				{"a role", []string{"CREATE ROLE " + role, "GRANT ALL PRIVILEGES ON " + db + ".* TO " + role, "GRANT " + role + " TO " + user}},
			} {
				t.Run(privileges.name, func(t *testing.T) {
					for _, statement := range privileges.statements {
						if _, err := root.ExecContext(t.Context(), statement); err != nil {
							t.Fatalf("%s: %v", statement, err)
						}
					}
					if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
						t.Fatal(err)
					}
					wantGrants(t, root, cfg)
					wantAppendOnly(t, servertest.OpenSQL(t, dsn))
				})
			}
			if _, err := root.ExecContext(t.Context(), "DROP ROLE "+role); err != nil {
				t.Errorf("drop role %s: %v", role, err)
			}
		})
	}
}

// wantGrants checks that the user in cfg has exactly the privileges that the functions need.
func wantGrants(t *testing.T, root *sql.DB, cfg *mysql.Config) {
	t.Helper()
	rows, err := root.QueryContext(t.Context(), "SHOW GRANTS FOR '"+cfg.User+"'@'%'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var got []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		line = strings.NewReplacer("`", "", "'", "", "GRANT ", "").Replace(line)
		what, rest, _ := strings.Cut(line, " ON ")
		on, options, _ := strings.Cut(rest, " TO "+cfg.User+"@%")
		if what == "USAGE" && on == "*.*" && !strings.Contains(options, "OPTION") {
			continue
		}
		privileges := strings.Split(strings.ReplaceAll(what, ", ", ","), ",")
		slices.Sort(privileges)
		got = append(got, strings.Join(privileges, ",")+" on "+strings.TrimPrefix(on, cfg.DBName+".")+strings.TrimSpace(options))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{"INSERT,SELECT on audit", "SELECT on goose_db_version"}
	for _, table := range []string{"attempt_counters", "login_attempts", "passkeys", "recovery_codes", "second_factors", "used_challenges", "refresh_tokens", "sessions", "users"} {
		want = append(want, "DELETE,INSERT,SELECT,UPDATE on "+table)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("privileges: got %q, want %q", got, want)
	}
}

// wantAppendOnly checks that the runtime user cannot change audit entries, cannot change the schema, and cannot change
// the record of the schema version.
func wantAppendOnly(t *testing.T, runtime *sql.DB) {
	t.Helper()
	for _, statement := range []string{
		`UPDATE audit SET actor_name = 'eve'`,
		`DELETE FROM audit`,
		`TRUNCATE TABLE audit`,
		`REPLACE INTO audit SELECT * FROM audit`,
		`INSERT INTO audit SELECT * FROM audit ON DUPLICATE KEY UPDATE actor_name = 'eve'`,
		`DROP TABLE audit`,
		`ALTER TABLE audit ADD COLUMN x INT`,
		`CREATE INDEX x ON audit (action)`,
		`DELETE FROM goose_db_version`,
		`CREATE TABLE x (id INT)`,
	} {
		_, err := runtime.ExecContext(t.Context(), statement)
		var server *mysql.MySQLError
		if !errors.As(err, &server) || !slices.Contains([]uint16{1142, 1143, 8121}, server.Number) {
			t.Errorf("%s: got %v, want access denied", statement, err)
		}
	}
}

// TestProvisionLeavesNoGap proves that a running function never lacks a privilege while setup replaces the privileges
// of an earlier version, which granted SELECT on the whole database.
func TestProvisionLeavesNoGap(t *testing.T) {
	admin, dsn := servertest.MySQL(t).NewDatabase(t)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Provision(t.Context(), admin, dsn); err != nil {
		t.Fatal(err)
	}
	root, user := servertest.OpenSQL(t, admin), "'"+cfg.User+"'@'%'"
	for range 10 {
		for _, statement := range []string{
			"GRANT SELECT ON `" + strings.ReplaceAll(cfg.DBName, "_", `\_`) + "`.* TO " + user,
			"REVOKE SELECT ON " + cfg.DBName + ".users FROM " + user,
			"REVOKE SELECT ON " + cfg.DBName + ".audit FROM " + user,
		} {
			if _, err := root.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		stop, failed := make(chan struct{}), make(chan error, 1)
		runtime := servertest.OpenSQL(t, dsn)
		go func() {
			defer close(failed)
			for {
				for _, statement := range []string{"SELECT COUNT(*) FROM users", "UPDATE users SET role = role WHERE FALSE", "SELECT COUNT(*) FROM audit"} {
					if _, err := runtime.ExecContext(t.Context(), statement); err != nil {
						failed <- fmt.Errorf("%s: %w", statement, err)
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		err := accounts.Provision(t.Context(), admin, dsn)
		close(stop)
		if err := errors.Join(err, <-failed); err != nil {
			t.Fatalf("setup, or a statement during setup: %v", err)
		}
	}
}
