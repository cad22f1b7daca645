package accounts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReduceGrants parses and reduces lines of SHOW GRANTS from MySQL 9.7, MariaDB 10.11 and TiDB.
func TestReduceGrants(t *testing.T) {
	wanted := map[string][]string{"my_db.audit": {"SELECT", "INSERT"}, "my_db.users": {"SELECT", "INSERT", "UPDATE", "DELETE"}}
	for name, test := range map[string]struct {
		line string
		want []string
	}{
		"no privilege":                  {"GRANT USAGE ON *.* TO `u`@`%`", nil},
		"no privilege, MariaDB":         {"GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*4ACFE3202A5FF5CF467898FC58AAB1D615029441'", nil},
		"as wanted":                     {"GRANT SELECT, INSERT ON `my_db`.`audit` TO `u`@`%`", nil},
		"as wanted, another order":      {"GRANT DELETE,INSERT,SELECT,UPDATE ON my_db.users TO 'u'@'%'", nil},
		"as wanted, folded name":        {"GRANT SELECT, INSERT ON `My_DB`.`audit` TO `u`@`%`", nil},
		"too many privileges":           {"GRANT SELECT, INSERT, UPDATE, DROP ON `my_db`.`audit` TO `u`@`%`", []string{"REVOKE UPDATE, DROP ON `my_db`.`audit` FROM `u`@`%`"}},
		"columns":                       {"GRANT SELECT, INSERT, UPDATE (`id`, `made_at`) ON `my_db`.`audit` TO `u`@`%`", []string{"REVOKE UPDATE (`id`, `made_at`) ON `my_db`.`audit` FROM `u`@`%`"}},
		"a column name with separators": {"GRANT UPDATE (`a`` ON b, (c)`), DELETE ON `my_db`.`audit` TO `u`@`%`", []string{"REVOKE UPDATE (`a`` ON b, (c)`), DELETE ON `my_db`.`audit` FROM `u`@`%`"}},
		"all privileges on a table": {"GRANT ALL PRIVILEGES ON `my_db`.`audit` TO `u`@`%` WITH GRANT OPTION", []string{
			"REVOKE ALL PRIVILEGES ON `my_db`.`audit` FROM `u`@`%`",
			"GRANT SELECT, INSERT ON `my_db`.`audit` TO `u`@`%`",
			"REVOKE GRANT OPTION ON `my_db`.`audit` FROM `u`@`%`"}},
		"another table":         {"GRANT SELECT ON `my_db`.`goose_db_version` TO `u`@`%`", []string{"REVOKE SELECT ON `my_db`.`goose_db_version` FROM `u`@`%`"}},
		"the database":          {"GRANT SELECT ON `my\\_db`.* TO `u`@`%`", []string{"REVOKE SELECT ON `my\\_db`.* FROM `u`@`%`"}},
		"databases by pattern":  {"GRANT ALL PRIVILEGES ON `my%`.* TO `u`@`%`", []string{"REVOKE ALL PRIVILEGES ON `my%`.* FROM `u`@`%`"}},
		"the server":            {"GRANT SELECT, PROCESS ON *.* TO `u`@`%`", []string{"REVOKE SELECT, PROCESS ON *.* FROM `u`@`%`"}},
		"dynamic privileges":    {"GRANT AUDIT_ADMIN,ROLE_ADMIN ON *.* TO `u`@`%`", []string{"REVOKE AUDIT_ADMIN, ROLE_ADMIN ON *.* FROM `u`@`%`"}},
		"only the grant option": {"GRANT USAGE ON `my_db`.* TO `u`@`%` WITH GRANT OPTION", []string{"REVOKE GRANT OPTION ON `my_db`.* FROM `u`@`%`"}},
		"a procedure":           {"GRANT EXECUTE ON PROCEDURE `my_db`.`p` TO `u`@`%`", []string{"REVOKE EXECUTE ON PROCEDURE `my_db`.`p` FROM `u`@`%`"}},
		"proxy":                 {"GRANT PROXY ON ''@'' TO 'u'@'%' WITH GRANT OPTION", []string{"REVOKE PROXY ON ''@'' FROM 'u'@'%'"}},
		"roles":                 {"GRANT `reader`@`%`,`writer`@`%` TO `u`@`%`", []string{"REVOKE `reader`@`%`, `writer`@`%` FROM `u`@`%`"}},
		"a role, MariaDB":       {"GRANT `a ON b TO c` TO `u`@`%` WITH ADMIN OPTION", []string{"REVOKE `a ON b TO c` FROM `u`@`%`"}},
	} {
		g, ok := parseGrant(test.line)
		if !ok {
			t.Errorf("%s: parseGrant(%q) returned no grant", name, test.line)
			continue
		}
		if diff := cmp.Diff(test.want, reduce([]grant{g}, wanted)); diff != "" {
			t.Errorf("%s: statements (-want +got):\n%s", name, diff)
		}
	}
	for _, line := range []string{"REVOKE INSERT ON `my_db`.* FROM `u`@`%`", "SET DEFAULT ROLE `reader` FOR `u`@`%`", ""} {
		if g, ok := parseGrant(line); ok {
			t.Errorf("%q: got %+v, want no grant", line, g)
		}
	}
}
