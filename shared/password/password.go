// Package password hashes and verifies passwords with argon2id. It also verifies passwords against bcrypt and PBKDF2
// hashes that were imported from other systems.
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

// Dummy is a hash that matches no known password and has the parameters of new hashes. If a user does not exist, the
// caller verifies the password against Dummy and ignores the result, so that the response takes as long as for an
// existing user.
const Dummy = "$argon2id$v=19$m=19456,t=2,p=1$rE50QnIvOZJttYC1OTlGgA$kxhjz2FVRcndGltfSIBFz6b1PdfqHaVamH4k9luPqBA"

// The minimum and maximum length of a password, in bytes after normalization.
const (
	minLength = 8
	maxLength = 256
)

// Check returns a problem.Unprocessable if password is not allowed as a new password. A new password must be valid
// UTF-8 and have 8 to 256 bytes after normalization to NFKC. It must not contain the character U+FFFD, because
// decoders replace invalid bytes with that character. Different passwords could therefore become the same password.
func Check(password string) error {
	if !utf8.ValidString(password) || strings.ContainsRune(password, utf8.RuneError) {
		return problem.Unprocessable.With("the password must be valid UTF-8 and must not contain the character U+FFFD")
	}
	if n := len(normalize(password)); n < minLength || n > maxLength {
		return problem.Unprocessable.With("the password must have %d to %d bytes", minLength, maxLength)
	}
	return nil
}

// normalize returns password in NFKC, because different keyboards can produce different byte sequences for the same
// password, and NFKC maps these byte sequences to one byte sequence.
func normalize(password string) string { return norm.NFKC.String(password) }

// Hasher computes password hashes. It limits the number of concurrent computations, because each of them occupies a
// processor core and 19 MiB of memory.
type Hasher struct {
	slots      chan struct{}
	wait       time.Duration
	algorithms algorithms
}

// NewHasher returns a Hasher with the given number of slots, which is the maximum number of concurrent computations.
// maxWait is how long a caller may wait for a free slot.
func NewHasher(slots int, maxWait time.Duration) *Hasher {
	return &Hasher{
		slots:      make(chan struct{}, max(1, slots)),
		wait:       maxWait,
		algorithms: algorithms{argon2.IDKey, bcrypt.CompareHashAndPassword, pbkdf2.Key[hash.Hash]},
	}
}

// Hash hashes password with a new random salt and returns the hash as a PHC string. It does not call Check, so a
// caller that sets a new password must call Check first. The error is a problem.Unavailable if too many other
// passwords are being hashed.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	p := phc{params: current, salt: make([]byte, saltBytes)}
	rand.Read(p.salt) // rand.Read never fails
	leave, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	p.key = p.derive(h.algorithms, password, keyBytes)
	return p.String(), nil
}

// Verify reports whether password matches a stored hash. After a match, rehash reports whether the caller should
// replace the stored hash with a new hash of the password, because new hashes use another algorithm or other
// parameters.
//
// The stored hash comes from Hash, or is an argon2id, bcrypt or PBKDF2 hash from another system. If it is malformed,
// the error wraps ErrMalformed, but Verify still computes exactly one hash, so that the response time does not reveal
// that the stored hash is malformed. If too many other passwords are being hashed, Verify computes no hash, and the
// error is a problem.Unavailable.
//
// For a bcrypt or PBKDF2 hash, Verify does not normalize the password, because the other system did not normalize it.
// It does not try the normalized password as well, because that would require a second hash computation. After a match
// with such a hash, rehash is always true.
//
// A comparison with a bcrypt or PBKDF2 hash does not take the same time as a comparison with Dummy. For example, bcrypt
// with cost 12 takes 250 ms, and Dummy takes 20 ms. This difference reveals that the user exists, was imported, and has
// not signed in since the import. It reveals nothing about the password, and it disappears after the first sign-in or a
// password reset. Verify does not hide the difference, because every failed sign-in would then have to take as long as
// the slowest imported hash, and an attacker would need only a tenth of the requests to keep all cores busy.
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
		return false, false, fmt.Errorf("verify password: %w", err)
	}
	return ok, ok && parsed.outdated(), nil
}

// enter waits for a free slot for a hash computation. The caller must call leave to release the slot. The error is a
// problem.Unavailable if no slot becomes free in time.
func (h *Hasher) enter(ctx context.Context) (leave func(), err error) {
	defer func(start time.Time) { telemetry.HashWait(ctx, time.Since(start)) }(time.Now())
	waiting, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-waiting.Done():
		return nil, problem.Unavailable.Because(waiting.Err(), "too many passwords are being checked at the same time: try again later")
	}
}
