package password

import (
	"errors"
	"regexp"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// maxBcrypt is the maximum number of password bytes that bcrypt uses. bcrypt ignores all further bytes.
const maxBcrypt = 72

// bcryptHash is a bcrypt hash from another system. The versions $2a$, $2b$ and $2y$ are equivalent for all
// supported passwords (see matches). The version $2x$ is not supported, because it has a bug.
type bcryptHash string

// bcryptSyntax matches a bcrypt hash with a cost from 4 to 14. A higher cost is not supported, because a hash with
// cost 14 already takes about one second.
var bcryptSyntax = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{22}[./A-Za-z0-9]{30}[.CGKOSWaeimquy26]$`)

func parseBcrypt(s string) (stored, error) {
	// Accept a salt whose unused bits are set, because some old implementations set them. Reject a digest whose
	// unused bits are set, because no password would match such a hash.
	if !bcryptSyntax.MatchString(s) {
		return nil, ErrMalformed
	}
	return bcryptHash(s), nil
}

// matches returns false for a password that has more than 72 bytes or contains a NUL byte. bcrypt ignores a part of
// such a password and could therefore accept a mistyped password. The argon2id hash that then replaces the bcrypt hash
// would be the hash of the mistyped password.
func (h bcryptHash) matches(a algorithms, password string) (bool, error) {
	err := a.bcrypt([]byte(h), []byte(password[:min(len(password), maxBcrypt)]))
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	// Reject a password with a NUL byte, because C implementations ignore all bytes after the NUL byte. In addition,
	// bcrypt repeats the password, separated by NUL bytes, so "a\x00a" matches the hash of "a".
	return err == nil && len(password) <= maxBcrypt && strings.IndexByte(password, 0) < 0, err
}

func (h bcryptHash) outdated() bool { return true }

func (h bcryptHash) String() string { return string(h) }
