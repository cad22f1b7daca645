// Package password hashes and verifies passwords with argon2id, never more at once than the machine has memory for.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Dummy is a hash with the parameters of new ones that no password is known for. Whoever must not tell that there is
// nothing to compare with verifies against it, and ignores the outcome, so that it takes as long as a comparison.
const Dummy = "$argon2id$v=19$m=19456,t=2,p=1$rE50QnIvOZJttYC1OTlGgA$kxhjz2FVRcndGltfSIBFz6b1PdfqHaVamH4k9luPqBA"

// The bounds of a password's length, in bytes after normalisation.
const (
	minLength = 8
	maxLength = 256
)

// Check tells whether password may be chosen: 8 to 256 bytes of UTF-8 after NFKC, without the character U+FFFD, which
// decoders put in the place of what they can not decode. An error is a problem.Unprocessable.
func Check(password string) error {
	if !utf8.ValidString(password) || strings.ContainsRune(password, utf8.RuneError) {
		return problem.Unprocessable.With("the password is not UTF-8")
	}
	if n := len(normalize(password)); n < minLength || n > maxLength {
		return problem.Unprocessable.With("the password must have %d to %d bytes", minLength, maxLength)
	}
	return nil
}

// normalize makes one string of the several that look alike and that keyboards produce for the same password.
func normalize(password string) string { return norm.NFKC.String(password) }

// Hasher computes hashes, a bounded number at once: each takes 19 MiB and a core.
type Hasher struct {
	slots chan struct{}
	wait  time.Duration
	idKey func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte
}

// NewHasher returns a Hasher that computes at most slots hashes at once, and lets a caller wait for a slot no longer
// than wait.
func NewHasher(slots int, wait time.Duration) *Hasher {
	return &Hasher{slots: make(chan struct{}, max(1, slots)), wait: wait, idKey: argon2.IDKey}
}

// Hash returns the PHC string of password with a fresh salt. It does not apply Check. An error is a
// problem.Unavailable: no slot came free in time.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	p := phc{params: current, salt: make([]byte, saltBytes)}
	rand.Read(p.salt) // never fails
	var err error
	if p.key, err = h.compute(ctx, p.params, password, p.salt, keyBytes); err != nil {
		return "", err
	}
	return p.String(), nil
}

// Verify tells whether password is what hash was made from and, if so, whether hash should be made anew because it
// has other parameters than new hashes get. It computes one hash whatever hash is: for one that is malformed, a dummy,
// and then the error wraps ErrMalformed. The other error is a problem.Unavailable: no slot came free in time, and
// nothing was computed.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (ok, rehash bool, err error) {
	p, malformed := parsePHC(hash)
	if malformed != nil {
		p = phc{params: current, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	}
	key, err := h.compute(ctx, p.params, password, p.salt, len(p.key))
	if err != nil {
		return false, false, err
	}
	if malformed != nil {
		return false, false, fmt.Errorf("verify a password: %w", malformed)
	}
	if subtle.ConstantTimeCompare(key, p.key) != 1 {
		return false, false, nil
	}
	return true, p.outdated(), nil
}

// compute derives a key once it has a slot.
func (h *Hasher) compute(ctx context.Context, p params, password string, salt []byte, length int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, problem.Unavailable.Because(ctx.Err(), "too many sign-ins at once")
	}
	defer func() { <-h.slots }()
	return h.idKey([]byte(normalize(password)), salt, p.time, p.memory, p.threads, uint32(length)), nil
}
