// Package password hashes and verifies passwords with argon2id. It also verifies passwords against bcrypt and PBKDF2
// hashes that were imported from other systems.
package password

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"fmt"
	"hash"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// Dummy is a hash that matches no known password and has the parameters of new hashes. If a user does not exist, the
// caller verifies the password against Dummy, so that the response takes as long as for an existing user.
const Dummy = "$argon2id$v=19$m=19456,t=2,p=1$rE50QnIvOZJttYC1OTlGgA$kxhjz2FVRcndGltfSIBFz6b1PdfqHaVamH4k9luPqBA"

// normalize returns the NFKC form of password. Different keyboards can produce different byte sequences for the same
// password, and NFKC maps these byte sequences to one byte sequence.
func normalize(password string) string { return norm.NFKC.String(password) }

// Hasher limits concurrent hash computations, because each computation occupies a processor core and 19 MiB of
// memory. If a computation cannot start in time, the error is a problem.Unavailable.
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

// Hash hashes password with a new random salt and returns a PHC string. It does not call Check, so a caller that
// sets a new password must call Policy.Check first.
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

// Verify reports whether password matches a stored hash (ok), and whether the caller should replace the stored hash
// with a new one (rehash). The error wraps ErrMalformed if the stored hash is not supported.
func (h *Hasher) Verify(ctx context.Context, stored, password string) (ok, rehash bool, err error) {
	parsed, malformed := parse(stored)
	if malformed != nil {
		// Compute a hash even if the stored hash is malformed, so that the response time does not reveal the problem.
		parsed = phc{params: current, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return false, false, err
	}
	defer leave()
	// The response time can reveal that a hash was imported, because the algorithms differ in speed (see
	// docs/security.md). Do not hide this by making every failed sign-in as slow as the slowest algorithm, because
	// attackers could then occupy all cores with one tenth as many requests.
	ok, err = parsed.matches(h.algorithms, password)
	if malformed != nil {
		err = malformed
	}
	if err != nil {
		return false, false, fmt.Errorf("verify password: %w", err)
	}
	return ok, ok && parsed.outdated(), nil
}

// enter waits for a free slot for a hash computation. The caller must call leave to release the slot.
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
