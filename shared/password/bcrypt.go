package password

import (
	"errors"
	"regexp"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// maxBcrypt is the number of password bytes that bcrypt uses. bcrypt ignores all further bytes.
const maxBcrypt = 72

// bcryptHash is a bcrypt hash from another system. Its prefix identifies the version of bcrypt. The versions $2a$,
// $2b$ and $2y$ are supported, because they compute the same hash for every UTF-8 password that has at most 72 bytes
// and no NUL byte. The version $2x$ is not supported, because it has a bug.
type bcryptHash string

// bcryptSyntax matches a bcrypt hash with a cost from 4 to 14. A higher cost is not supported, because each step
// doubles the computing time, and cost 14 already takes about one second. The unused bits in the last character of
// the salt can be set, because some old implementations set them. The unused bits in the last character of the digest
// must not be set, because no password would match such a hash.
var bcryptSyntax = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{22}[./A-Za-z0-9]{30}[.CGKOSWaeimquy26]$`)

func parseBcrypt(s string) (stored, error) {
	if !bcryptSyntax.MatchString(s) {
		return nil, ErrMalformed
	}
	return bcryptHash(s), nil
}

// matches returns false if password is longer than 72 bytes or contains a NUL byte, even if bcrypt accepts it, because
// bcrypt does not compare all bytes of such a password. After a match, the caller hashes the whole password again with
// argon2id, so bytes that bcrypt did not compare would become part of the password.
//
// bcrypt ignores all bytes after the first 72 bytes, and C implementations ignore all bytes after a NUL byte. bcrypt
// also cycles through the password, appending a NUL byte each time, so the password "a\x00a" matches the hash of "a".
func (h bcryptHash) matches(a algorithms, password string) (bool, error) {
	err := a.bcrypt([]byte(h), []byte(password[:min(len(password), maxBcrypt)]))
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	return err == nil && len(password) <= maxBcrypt && strings.IndexByte(password, 0) < 0, err
}

func (h bcryptHash) outdated() bool { return true }

func (h bcryptHash) String() string { return string(h) }
