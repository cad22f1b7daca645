package password

import (
	"errors"
	"regexp"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// maxBcrypt is how many bytes of a password bcrypt uses. It ignores the others.
const maxBcrypt = 72

// bcryptHash is a hash that another system made with bcrypt. The letters a, b and y name generations of implementations
// whose hashes are the same for all passwords in UTF-8 that matches accepts; x names one that had a bug.
type bcryptHash string

// bcryptSyntax bounds the cost: each step doubles the time, and 14 takes about a second. Some old implementations left
// stray bits at the end of the salt, which count for nothing; there are none at the end of the key.
var bcryptSyntax = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{22}[./A-Za-z0-9]{30}[.CGKOSWaeimquy26]$`)

func parseBcrypt(s string) (stored, error) {
	if !bcryptSyntax.MatchString(s) {
		return nil, ErrMalformed
	}
	return bcryptHash(s), nil
}

// matches accepts no password of more than 72 bytes and none with a NUL. Of the one bcrypt sees the beginning only, of
// the other C implementations do; and it repeats the password with a NUL after it, so that "a", NUL, "a" is the same to
// it as "a". What it did not compare must not become the password, as it would when the hash is made anew.
func (h bcryptHash) matches(a algorithms, password string) (bool, error) {
	err := a.bcrypt([]byte(h), []byte(password[:min(len(password), maxBcrypt)]))
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	return err == nil && len(password) <= maxBcrypt && strings.IndexByte(password, 0) < 0, err
}

func (h bcryptHash) outdated() bool { return true }

func (h bcryptHash) String() string { return string(h) }
