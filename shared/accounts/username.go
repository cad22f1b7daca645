package accounts

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// maxUsername is the longest user name, in characters.
const maxUsername = 64

// CanonicalUsername returns the form of name that is stored and compared: NFKC and case-folded, so that names that
// look alike but for their case are one. Of visible characters and inner spaces, it has 1 to 64; an error is a
// problem.Unprocessable.
func CanonicalUsername(name string) (string, error) {
	// Folding can undo the normalisation and the other way round; for all but a few names one turn is enough.
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

var errUsername = problem.Unprocessable.With("a user name has 1 to %d visible characters and does not begin or end with a space", maxUsername)

// checkUsername refuses what could not be told apart by eye or would be cut off: MySQL ignores spaces at the end of
// both operands of a comparison.
func checkUsername(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > maxUsername {
		return errUsername
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) || r == utf8.RuneError {
			return errUsername
		}
	}
	first, _ := utf8.DecodeRuneInString(name)
	last, _ := utf8.DecodeLastRuneInString(name)
	if unicode.IsSpace(first) || unicode.IsSpace(last) {
		return errUsername
	}
	return nil
}
