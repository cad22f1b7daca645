package accounts

import (
	"slices"
	"strings"
)

// allPrivileges is the text with which servers list all privileges on an object at once.
const allPrivileges = "ALL PRIVILEGES"

// grant is one line of SHOW GRANTS. Its texts are the server's own, quotes included.
type grant struct {
	privileges []string // or roles, if on is empty
	on         string   // such as *.*, `db`.*, `db`.`table` or PROCEDURE `db`.`name`
	user       string
	option     bool // WITH GRANT OPTION
}

// parseGrant reads a line of SHOW GRANTS as MySQL, MariaDB and TiDB write it:
//
//	GRANT SELECT, UPDATE (`a`, `b`) ON `db`.`table` TO `user`@`%` WITH GRANT OPTION
//	GRANT `role`@`%`,`other`@`%` TO `user`@`%`
//
// It reports false for the lines that grant nothing: the REVOKE lines of MySQL's partial revokes, and MariaDB's SET
// DEFAULT ROLE.
func parseGrant(line string) (grant, bool) {
	rest, ok := strings.CutPrefix(line, "GRANT ")
	if !ok {
		return grant{}, false
	}
	what, rest := cutUnquoted(rest, " TO ")
	user, options := cutUnquoted(rest, " ")
	names, on := cutUnquoted(what, " ON ")
	g := grant{on: on, user: user, option: strings.Contains(options, "GRANT OPTION")}
	for names != "" {
		var name string
		name, names = cutUnquoted(names, ",")
		g.privileges = append(g.privileges, strings.TrimSpace(name))
	}
	return g, true
}

// cutUnquoted cuts s around the first separator that is neither quoted nor in parentheses. Without one, all of s comes
// before it.
func cutUnquoted(s, separator string) (before, after string) {
	var quote byte
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote { // a doubled quote ends the quoted text and begins another at once
				quote = 0
			}
		case strings.IndexByte("`'\"", c) >= 0:
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case depth == 0 && strings.HasPrefix(s[i:], separator):
			return s[:i], s[i+len(separator):]
		}
	}
	return s, ""
}

// tableKey returns the key of a table in a map of privileges: database.table, without quotes, and in lower case because some
// servers store names in lower case.
func tableKey(name string) string { return strings.ToLower(strings.ReplaceAll(name, "`", "")) }

// reduce returns the statements that reduce the grants to the privileges in wanted, which maps a tableKey to privileges.
func reduce(grants []grant, wanted map[string][]string) []string {
	var statements, options []string
	for _, g := range grants {
		if g.on == "" {
			statements = append(statements, "REVOKE "+strings.Join(g.privileges, ", ")+" FROM "+g.user)
			continue
		}
		keep := wanted[tableKey(g.on)]
		revoke := slices.DeleteFunc(slices.Clone(g.privileges), func(privilege string) bool {
			return privilege == "USAGE" || slices.Contains(keep, privilege) // USAGE stands for no privilege
		})
		on := " ON " + g.on
		if len(revoke) > 0 {
			statements = append(statements, "REVOKE "+strings.Join(revoke, ", ")+on+" FROM "+g.user)
		}
		if g.option && !slices.Contains(revoke, "PROXY") { // REVOKE PROXY revokes its GRANT OPTION too
			options = append(options, "REVOKE GRANT OPTION"+on+" FROM "+g.user)
		}
		if keep != nil && slices.Contains(revoke, allPrivileges) {
			statements = append(statements, "GRANT "+strings.Join(keep, ", ")+on+" TO "+g.user)
		}
	}
	// The grant options come last: MySQL 9.7 silently keeps a dynamic privilege that is revoked after its grant option.
	return append(statements, options...)
}
