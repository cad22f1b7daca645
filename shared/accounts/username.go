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

// CanonicalUsername returns the canonical form of a user name. Names that differ only in case or Unicode
// normalization have the same canonical form. The error is a problem.Unprocessable if the name is invalid.
func CanonicalUsername(name string) (string, error) {
	// Repeat case folding and normalization until the name no longer changes, because each can make the other
	// necessary again. A name that still changes in the fourth iteration is invalid.
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

// checkUsername checks the length of a user name. It rejects invisible characters and leading or trailing spaces,
// because users can overlook them. In addition, MySQL ignores trailing spaces in comparisons.
func checkUsername(name string) error {
	n := utf8.RuneCountInString(name)
	invisible := func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }
	if n < 1 || n > maxUsername || strings.ContainsFunc(name, invisible) || strings.TrimSpace(name) != name {
		return errUsername
	}
	return nil
}
