package password

import (
	"errors"
	"hash"
	"strings"
)

// ErrMalformed reports that a stored hash has an unsupported format or that a parameter is out of bounds.
var ErrMalformed = errors.New("unsupported password hash: the format is unknown or a parameter is out of bounds")

// stored is a parsed password hash.
type stored interface {
	// matches reports whether password matches the hash. It computes exactly one hash. It normalizes the password
	// only for argon2id hashes, because all other hashes come from systems that did not normalize passwords.
	matches(a algorithms, password string) (bool, error)
	// outdated reports whether the algorithm or the parameters of the hash differ from those of new hashes.
	outdated() bool
	// String returns the hash as text, in the same format as in the database.
	String() string
}

// algorithms contains the functions that compute hashes, so that tests can replace them.
type algorithms struct {
	argon2id func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte
	bcrypt   func(hash, password []byte) error
	pbkdf2   func(digest func() hash.Hash, password string, salt []byte, iterations, keyLength int) ([]byte, error)
}

// parse parses the text form of a stored hash. The error is ErrMalformed if the format is not supported or if a
// parameter is out of bounds.
func parse(s string) (stored, error) {
	switch {
	case strings.HasPrefix(s, "$2"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$pbkdf2-"), strings.HasPrefix(s, "pbkdf2_"):
		return parsePBKDF2(s)
	}
	return parsePHC(s)
}

// CheckHash returns ErrMalformed if Verify does not support the given password hash. The error does not contain the
// hash, because the hash is a secret.
func CheckHash(hash string) error {
	_, err := parse(hash)
	return err
}
