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
		"no privilege":                  {line: "GRANT USAGE ON *.* TO `u`@`%`"},
		"no privilege, MariaDB":         {line: "GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*4ACFE3202A5FF5CF467898FC58AAB1D615029441'"},
		"as wanted":                     {line: "GRANT SELECT, INSERT ON `my_db`.`audit` TO `u`@`%`"},
		"as wanted, another order":      {line: "GRANT DELETE,INSERT,SELECT,UPDATE ON my_db.users TO 'u'@'%'"},
		"as wanted, folded name":        {line: "GRANT SELECT, INSERT ON `My_DB`.`audit` TO `u`@`%`"},
		"too many privileges":           {line: "GRANT SELECT, INSERT, UPDATE, DROP ON `my_db`.`audit` TO `u`@`%`", want: []string{"REVOKE UPDATE, DROP ON `my_db`.`audit` FROM `u`@`%`"}},
		"columns":                       {line: "GRANT SELECT, INSERT, UPDATE (`id`, `made_at`) ON `my_db`.`audit` TO `u`@`%`", want: []string{"REVOKE UPDATE (`id`, `made_at`) ON `my_db`.`audit` FROM `u`@`%`"}},
		"a column name with separators": {line: "GRANT UPDATE (`a`` ON b, (c)`), DELETE ON `my_db`.`audit` TO `u`@`%`", want: []string{"REVOKE UPDATE (`a`` ON b, (c)`), DELETE ON `my_db`.`audit` FROM `u`@`%`"}},
		"all privileges on a table": {line: "GRANT ALL PRIVILEGES ON `my_db`.`audit` TO `u`@`%` WITH GRANT OPTION", want: []string{
			"REVOKE ALL PRIVILEGES ON `my_db`.`audit` FROM `u`@`%`",
			"GRANT SELECT, INSERT ON `my_db`.`audit` TO `u`@`%`",
			"REVOKE GRANT OPTION ON `my_db`.`audit` FROM `u`@`%`"}},
		"another table":         {line: "GRANT SELECT ON `my_db`.`goose_db_version` TO `u`@`%`", want: []string{"REVOKE SELECT ON `my_db`.`goose_db_version` FROM `u`@`%`"}},
		"the database":          {line: "GRANT SELECT ON `my\\_db`.* TO `u`@`%`", want: []string{"REVOKE SELECT ON `my\\_db`.* FROM `u`@`%`"}},
		"databases by pattern":  {line: "GRANT ALL PRIVILEGES ON `my%`.* TO `u`@`%`", want: []string{"REVOKE ALL PRIVILEGES ON `my%`.* FROM `u`@`%`"}},
		"the server":            {line: "GRANT SELECT, PROCESS ON *.* TO `u`@`%`", want: []string{"REVOKE SELECT, PROCESS ON *.* FROM `u`@`%`"}},
		"dynamic privileges":    {line: "GRANT AUDIT_ADMIN,ROLE_ADMIN ON *.* TO `u`@`%`", want: []string{"REVOKE AUDIT_ADMIN, ROLE_ADMIN ON *.* FROM `u`@`%`"}},
		"only the grant option": {line: "GRANT USAGE ON `my_db`.* TO `u`@`%` WITH GRANT OPTION", want: []string{"REVOKE GRANT OPTION ON `my_db`.* FROM `u`@`%`"}},
		"a procedure":           {line: "GRANT EXECUTE ON PROCEDURE `my_db`.`p` TO `u`@`%`", want: []string{"REVOKE EXECUTE ON PROCEDURE `my_db`.`p` FROM `u`@`%`"}},
		"proxy":                 {line: "GRANT PROXY ON ''@'' TO 'u'@'%' WITH GRANT OPTION", want: []string{"REVOKE PROXY ON ''@'' FROM 'u'@'%'"}},
		"roles":                 {line: "GRANT `reader`@`%`,`writer`@`%` TO `u`@`%`", want: []string{"REVOKE `reader`@`%`, `writer`@`%` FROM `u`@`%`"}},
		"a role, MariaDB":       {line: "GRANT `a ON b TO c` TO `u`@`%` WITH ADMIN OPTION", want: []string{"REVOKE `a ON b TO c` FROM `u`@`%`"}},
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
