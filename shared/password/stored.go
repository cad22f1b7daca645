package password

import (
	"errors"
	"hash"
	"strings"
)

// ErrMalformed is what a stored hash is that is none of those that Verify knows, or not within their bounds.
var ErrMalformed = errors.New("not a password hash of a known form and within bounds")

// stored is a stored hash after parsing.
type stored interface {
	// matches tells whether password is what the hash was made from. It computes exactly one hash.
	matches(a algorithms, password string) (bool, error)
	// outdated tells whether the hash was made otherwise than new ones are.
	outdated() bool
	// String returns the hash as it was stored.
	String() string
}

// algorithms are what computes hashes.
type algorithms struct {
	argon2id func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte
	bcrypt   func(hash, password []byte) error
	pbkdf2   func(digest func() hash.Hash, password string, salt []byte, iterations, keyLength int) ([]byte, error)
}

// parse reads a stored hash strictly, and checks its parameters before anything is computed with them. The error is
// ErrMalformed.
func parse(s string) (stored, error) {
	switch {
	case strings.HasPrefix(s, "$2"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$pbkdf2-"), strings.HasPrefix(s, "pbkdf2_"):
		return parsePBKDF2(s)
	}
	return parsePHC(s)
}

// CheckHash tells whether hash is one that Verify can compare with. The error is ErrMalformed, and does not show it.
func CheckHash(hash string) error {
	_, err := parse(hash)
	return err
}
