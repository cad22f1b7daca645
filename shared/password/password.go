// Package password hashes and verifies passwords with argon2id, never more at once than the machine has memory for. It
// also verifies the bcrypt and PBKDF2 hashes that users of another system bring along.
package password

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"fmt"
	"hash"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
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
	slots      chan struct{}
	wait       time.Duration
	algorithms algorithms
}

// NewHasher returns a Hasher that computes at most slots hashes at once, and lets a caller wait for a slot no longer
// than wait.
func NewHasher(slots int, wait time.Duration) *Hasher {
	return &Hasher{
		slots:      make(chan struct{}, max(1, slots)),
		wait:       wait,
		algorithms: algorithms{argon2.IDKey, bcrypt.CompareHashAndPassword, pbkdf2.Key[hash.Hash]},
	}
}

// Hash returns the PHC string of password with a fresh salt. It does not apply Check. An error is a
// problem.Unavailable: no slot came free in time.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	p := phc{params: current, salt: make([]byte, saltBytes)}
	rand.Read(p.salt) // never fails
	leave, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	p.key = p.derive(h.algorithms, password, keyBytes)
	return p.String(), nil
}

// Verify tells whether password is what stored was made from and, if so, whether it should be hashed anew because new
// hashes are made otherwise. It computes one hash whatever stored is: for one that is malformed, a dummy, and then the
// error wraps ErrMalformed. The other error is a problem.Unavailable: no slot came free in time, and nothing was
// computed.
//
// stored is what Hash returns, or comes from another system, which used argon2id, bcrypt or PBKDF2; those of the last
// two should always be made anew. What made them compared the bytes as they were typed. So does Verify with them, and
// does not try the form that Hash normalizes to as well, which would be a second hash: a password that was refused
// before is still refused.
//
// A comparison with such a hash takes longer or shorter than one with Dummy, 250 ms instead of 20 with bcrypt's cost 12.
// That tells that there is a user of that name, who was imported and has not signed in since, and nothing about the
// password. To hide it, each failed login would have to take as long as the slowest hash that was ever imported, for
// ever, which would let anybody keep all cores busy with ten times fewer requests. The first login, or a reset of the
// password, ends it.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (ok, rehash bool, err error) {
	parsed, malformed := parse(stored)
	if malformed != nil {
		parsed = phc{params: current, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return false, false, err
	}
	defer leave()
	ok, err = parsed.matches(h.algorithms, password)
	if malformed != nil {
		err = malformed
	}
	if err != nil {
		return false, false, fmt.Errorf("verify a password: %w", err)
	}
	return ok, ok && parsed.outdated(), nil
}

// enter waits for a slot. leave gives it back.
func (h *Hasher) enter(ctx context.Context) (leave func(), err error) {
	defer func(start time.Time) { telemetry.HashWait(ctx, time.Since(start)) }(time.Now())
	waiting, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-waiting.Done():
		return nil, problem.Unavailable.Because(waiting.Err(), "too many sign-ins at once")
	}
}
