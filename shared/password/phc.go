package password

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"regexp"
)

// params contains the parameters of argon2id.
type params struct {
	memory  uint32 // KiB
	time    uint32 // the number of passes over the memory
	threads uint8
}

// current contains the parameters for new hashes. OWASP recommends these values for argon2id.
var current = params{memory: 19456, time: 2, threads: 1}

// The limits for the parameters of a stored hash. They are checked before the hash is computed, so that an imported
// hash cannot exhaust the memory of the process.
const (
	maxMemory  = 64 << 10 // KiB
	maxTime    = 10
	maxThreads = 4

	saltBytes, minSalt, maxSalt = 16, 8, 64
	keyBytes, minKey, maxKey    = 32, 16, 64
)

// phc is a parsed hash in the PHC string format, which is defined at
// https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md.
type phc struct {
	params
	salt, key []byte
}

var phcSyntax = regexp.MustCompile(`^\$argon2id\$v=19\$m=[0-9]{1,9},t=[0-9]{1,9},p=[0-9]{1,3}\$([A-Za-z0-9+/]{1,100})\$([A-Za-z0-9+/]{1,100})$`)

// parsePHC parses a PHC string. It accepts a hash only in the exact form that the String method returns. For any other
// text, the error is ErrMalformed.
func parsePHC(s string) (stored, error) {
	parts := phcSyntax.FindStringSubmatch(s)
	if parts == nil {
		return nil, ErrMalformed
	}
	var memory, time, threads uint32
	_, err := fmt.Sscanf(s, "$argon2id$v=19$m=%d,t=%d,p=%d$", &memory, &time, &threads)
	if err != nil || threads < 1 || threads > maxThreads || time < 1 || time > maxTime || memory < 8*threads || memory > maxMemory {
		return nil, ErrMalformed
	}
	p := phc{params: params{memory: memory, time: time, threads: uint8(threads)}}
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[1]); err != nil || len(p.salt) < minSalt || len(p.salt) > maxSalt {
		return nil, ErrMalformed
	}
	if p.key, err = base64.RawStdEncoding.DecodeString(parts[2]); err != nil || len(p.key) < minKey || len(p.key) > maxKey {
		return nil, ErrMalformed
	}
	if p.String() != s { // s has leading zeros, or its Base64 text has unused bits that are set
		return nil, ErrMalformed
	}
	return p, nil
}

// derive computes the argon2id key for password. length is the size of the key in bytes.
func (p phc) derive(a algorithms, password string, length int) []byte {
	return a.argon2id([]byte(normalize(password)), p.salt, p.time, p.memory, p.threads, uint32(length))
}

func (p phc) matches(a algorithms, password string) (bool, error) {
	return subtle.ConstantTimeCompare(p.derive(a, password, len(p.key)), p.key) == 1, nil
}

// String returns the hash as a PHC string.
func (p phc) String() string {
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", p.memory, p.time, p.threads,
		base64.RawStdEncoding.EncodeToString(p.salt), base64.RawStdEncoding.EncodeToString(p.key))
}

// outdated reports whether the parameters, salt length or key length of p differ from those of new hashes.
func (p phc) outdated() bool {
	return p.params != current || len(p.salt) != saltBytes || len(p.key) != keyBytes
}
