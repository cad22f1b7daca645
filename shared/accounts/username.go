package accounts

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxUsername is the maximum length of a user name, in characters.
const maxUsername = 64

// CanonicalUsername returns the canonical form of a user name. User names are stored and compared in this form, which
// is case-folded and normalized to NFKC, so that names that differ only in case or Unicode encoding are the same user
// name. The error is a problem.Unprocessable if the canonical form does not have 1 to 64 visible characters, or if it
// begins or ends with a space.
func CanonicalUsername(name string) (string, error) {
	// Repeat the normalization and the case folding until the name no longer changes, because each step can undo the
	// effect of the other. Almost all names are stable after one iteration, so a limit of four is more than enough.
	for range 4 {
		if len(name) > 16*maxUsername || !utf8.ValidString(name) {
			return "", errUsername
		}
		next := norm.NFKC.String(cases.Fold().String(norm.NFKC.String(name)))
		if next == name {
			return name, checkUsername(name)
		}
		name = next
	}
	return "", errUsername
}

var errUsername = problem.Unprocessable.With("the user name must have 1 to %d visible characters and must not begin or end with a space", maxUsername)

// checkUsername checks the length and the characters of a user name. It rejects invisible characters, because users
// cannot distinguish two names that differ only in invisible characters. It rejects spaces at both ends, because
// users can overlook them, and because MySQL ignores trailing spaces in comparisons.
func checkUsername(name string) error {
	n := utf8.RuneCountInString(name)
	invisible := func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }
	if n < 1 || n > maxUsername || strings.ContainsFunc(name, invisible) || strings.TrimSpace(name) != name {
		return errUsername
	}
	return nil
}
