package accounts

import (
	"slices"
	"strings"
)

// allPrivileges is the text that SHOW GRANTS prints if a user has all privileges on an object.
const allPrivileges = "ALL PRIVILEGES"

// grant is a parsed line of SHOW GRANTS output. Its strings are copied from that line unchanged, including any
// quotation marks.
type grant struct {
	privileges []string // the roles, if the line names no object
	on         string   // the object, such as *.*, `db`.*, `db`.`table` or PROCEDURE `db`.`name`; empty for roles
	user       string
	option     bool // the line contains WITH GRANT OPTION
}

// parseGrant parses a line from SHOW GRANTS. It returns false if the line grants nothing. Examples of lines that grant
// privileges or roles:
//
//	GRANT SELECT, UPDATE (`a`, `b`) ON `db`.`table` TO `user`@`%` WITH GRANT OPTION
//	GRANT `role`@`%`,`other`@`%` TO `user`@`%`
func parseGrant(line string) (grant, bool) {
	rest, ok := strings.CutPrefix(line, "GRANT ")
	if !ok {
		// Only GRANT lines grant privileges or roles. SHOW GRANTS can also print REVOKE lines (partial revokes in
		// MySQL) and SET DEFAULT ROLE lines (MariaDB).
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

// cutUnquoted cuts s around the first separator that is outside quotation marks and parentheses. If s contains no such
// separator, cutUnquoted returns s and an empty string.
func cutUnquoted(s, separator string) (before, after string) {
	var quote byte
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote { // an escaped (doubled) quote ends one quoted text and begins the next
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

// tableKey returns the map key for a name such as `db`.`table`. The key has no backquotes and is in lower case,
// because some servers convert table names to lower case.
func tableKey(name string) string { return strings.ToLower(strings.ReplaceAll(name, "`", "")) }

// reduce returns the statements that revoke all privileges and roles in grants, except the privileges in the wanted
// map. The keys of the wanted map come from tableKey.
func reduce(grants []grant, wanted map[string][]string) []string {
	var statements, options []string
	for _, g := range grants {
		if g.on == "" {
			statements = append(statements, "REVOKE "+strings.Join(g.privileges, ", ")+" FROM "+g.user)
			continue
		}
		keep := wanted[tableKey(g.on)]
		revoke := slices.DeleteFunc(slices.Clone(g.privileges), func(privilege string) bool {
			return privilege == "USAGE" || slices.Contains(keep, privilege) // USAGE stands for no privileges
		})
		on := " ON " + g.on
		if len(revoke) > 0 {
			statements = append(statements, "REVOKE "+strings.Join(revoke, ", ")+on+" FROM "+g.user)
		}
		if g.option && !slices.Contains(revoke, "PROXY") { // REVOKE PROXY also revokes its GRANT OPTION
			options = append(options, "REVOKE GRANT OPTION"+on+" FROM "+g.user)
		}
		// REVOKE ALL PRIVILEGES also revokes the wanted privileges, so grant them again.
		if keep != nil && slices.Contains(revoke, allPrivileges) {
			statements = append(statements, "GRANT "+strings.Join(keep, ", ")+on+" TO "+g.user)
		}
	}
	// Revoke the grant options last, because MySQL 9.7 ignores a REVOKE statement for a single dynamic privilege if
	// the privilege's grant option was revoked earlier.
	return append(statements, options...)
}
