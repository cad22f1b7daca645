package password

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"regexp"
	"strconv"
)

// The bounds of PBKDF2. Iterations are those of all blocks of the key together, which is what takes the time: the most
// takes about a second. A short salt is no reason to lock a user out whose hash is about to be replaced.
const (
	maxIterations = 2_000_000

	maxPBKDF2Salt              = 64
	minPBKDF2Key, maxPBKDF2Key = 16, 64
)

// pbkdf2Hash is a hash that another system made with PBKDF2.
type pbkdf2Hash struct {
	spelling   *pbkdf2Spelling
	digest     string // sha256 or sha512
	iterations int
	length     string // how the key's length is written out, empty where it is not
	salt, key  []byte
}

// pbkdf2Spelling is how a hash is written: format takes the digest, the iterations, the length, the salt and the key,
// and syntax has a group for each.
type pbkdf2Spelling struct {
	syntax    *regexp.Regexp
	format    string
	salt, key codec
}

type codec interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

// verbatim is the codec of what is written as it is.
type verbatim struct{}

func (verbatim) EncodeToString(b []byte) string { return string(b) }

func (verbatim) DecodeString(s string) ([]byte, error) { return []byte(s), nil }

// Passlib writes a dot for base64's plus.
var passlibBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./").WithPadding(base64.NoPadding)

var pbkdf2Spellings = []*pbkdf2Spelling{
	{ // PHC libraries, Ory Kratos
		regexp.MustCompile(`^\$pbkdf2-(sha256|sha512)\$i=([1-9][0-9]{0,6})(,l=[1-9][0-9])?\$([A-Za-z0-9+/]{1,90})\$([A-Za-z0-9+/]{1,90})$`),
		"$pbkdf2-%s$i=%d%s$%s$%s", base64.RawStdEncoding, base64.RawStdEncoding,
	},
	{ // Passlib, Authelia
		regexp.MustCompile(`^\$pbkdf2-(sha256|sha512)\$([1-9][0-9]{0,6})()\$([A-Za-z0-9./]{1,90})\$([A-Za-z0-9./]{1,90})$`),
		"$pbkdf2-%s$%d%s$%s$%s", passlibBase64, passlibBase64,
	},
	{ // Django
		regexp.MustCompile(`^pbkdf2_(sha256)\$([1-9][0-9]{0,6})()\$([!-#%-~]{1,64})\$([A-Za-z0-9+/]{1,90}={0,2})$`),
		"pbkdf2_%s$%d%s$%s$%s", verbatim{}, base64.StdEncoding,
	},
}

func parsePBKDF2(s string) (stored, error) {
	for _, spelling := range pbkdf2Spellings {
		if parts := spelling.syntax.FindStringSubmatch(s); parts != nil {
			return spelling.read(s, parts)
		}
	}
	return nil, ErrMalformed
}

// read makes a hash of the parts of s.
func (p *pbkdf2Spelling) read(s string, parts []string) (stored, error) {
	h := pbkdf2Hash{spelling: p, digest: parts[1]}
	var err error
	if h.iterations, err = strconv.Atoi(parts[2]); err != nil {
		return nil, ErrMalformed
	}
	if h.salt, err = p.salt.DecodeString(parts[4]); err != nil || len(h.salt) < 1 || len(h.salt) > maxPBKDF2Salt {
		return nil, ErrMalformed
	}
	if h.key, err = p.key.DecodeString(parts[5]); err != nil || len(h.key) < minPBKDF2Key || len(h.key) > maxPBKDF2Key {
		return nil, ErrMalformed
	}
	if parts[3] != "" {
		h.length = fmt.Sprintf(",l=%d", len(h.key))
	}
	if h.iterations*h.blocks() > maxIterations {
		return nil, ErrMalformed
	}
	if h.String() != s { // another length than the key has, bits after the end of the base64
		return nil, ErrMalformed
	}
	return h, nil
}

func (h pbkdf2Hash) hash() func() hash.Hash {
	if h.digest == "sha512" {
		return sha512.New
	}
	return sha256.New
}

// blocks is how many times all iterations are done: once for each digest that the key is made of.
func (h pbkdf2Hash) blocks() int {
	size := h.hash()().Size()
	return (len(h.key) + size - 1) / size
}

func (h pbkdf2Hash) matches(a algorithms, password string) (bool, error) {
	key, err := a.pbkdf2(h.hash(), password, h.salt, h.iterations, len(h.key))
	return err == nil && subtle.ConstantTimeCompare(key, h.key) == 1, err
}

func (h pbkdf2Hash) outdated() bool { return true }

func (h pbkdf2Hash) String() string {
	return fmt.Sprintf(h.spelling.format, h.digest, h.iterations, h.length,
		h.spelling.salt.EncodeToString(h.salt), h.spelling.key.EncodeToString(h.key))
}
