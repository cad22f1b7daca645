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

const (
	// maxIterations is the maximum total number of PBKDF2 iterations for all blocks of a key. A computation with this
	// number of iterations takes about one second.
	maxIterations = 2_000_000

	// The bounds for the lengths of the salt and the key, in bytes. Even a 1-byte salt is accepted, because the
	// user's first sign-in replaces the hash.
	maxPBKDF2Salt              = 64
	minPBKDF2Key, maxPBKDF2Key = 16, 64
)

// pbkdf2Hash is a PBKDF2 hash from another system.
type pbkdf2Hash struct {
	spelling   *pbkdf2Spelling
	digest     string // sha256 or sha512
	iterations int
	length     string // the key length in the text of the hash, such as ",l=32", or empty if the text has none
	salt, key  []byte
}

// pbkdf2Spelling is a text format for PBKDF2 hashes.
type pbkdf2Spelling struct {
	syntax    *regexp.Regexp // with groups for the digest, the iterations, the key length, the salt and the key
	format    string         // for fmt.Sprintf, with a verb for each group of syntax, in the same order
	salt, key codec          // for converting the salt and the key to and from text
}

type codec interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

// verbatim is a codec that does not change values.
type verbatim struct{}

func (verbatim) EncodeToString(b []byte) string { return string(b) }

func (verbatim) DecodeString(s string) ([]byte, error) { return []byte(s), nil }

// passlibBase64 is Passlib's Base64 encoding, which has no padding and uses a dot instead of a plus sign.
var passlibBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./").WithPadding(base64.NoPadding)

var pbkdf2Spellings = []*pbkdf2Spelling{
	{ // the format of PHC libraries and Ory Kratos
		regexp.MustCompile(`^\$pbkdf2-(sha256|sha512)\$i=([1-9][0-9]{0,6})(,l=[1-9][0-9])?\$([A-Za-z0-9+/]{1,90})\$([A-Za-z0-9+/]{1,90})$`),
		"$pbkdf2-%s$i=%d%s$%s$%s", base64.RawStdEncoding, base64.RawStdEncoding,
	},
	{ // the format of Passlib and Authelia
		regexp.MustCompile(`^\$pbkdf2-(sha256|sha512)\$([1-9][0-9]{0,6})()\$([A-Za-z0-9./]{1,90})\$([A-Za-z0-9./]{1,90})$`),
		"$pbkdf2-%s$%d%s$%s$%s", passlibBase64, passlibBase64,
	},
	{ // the format of Django
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

// read returns the parsed form of the hash s. parts contains the submatches of the regular expression p.syntax in s.
// The error is ErrMalformed if a value is out of bounds, or if the String method of the parsed hash does not return s.
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
	if h.String() != s { // s has the wrong key length, or its Base64 text has unused bits that are set
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

// blocks returns the number of blocks that PBKDF2 computes for the key. Each block is as long as the digest, and PBKDF2
// runs all iterations for each block.
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
