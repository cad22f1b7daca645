package password

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestHashThenVerify(t *testing.T) {
	h := NewHasher(1, time.Minute)
	hash, err := h.Hash(t.Context(), "lovelace-1843")
	if err != nil {
		t.Fatal(err)
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(hash, want) {
		t.Errorf("got hash %s, want prefix %s", hash, want)
	}
	again, err := h.Hash(t.Context(), "lovelace-1843")
	if err != nil || again == hash {
		t.Errorf("second Hash = %q, %v; want a hash with another salt", again, err)
	}
	var salts []string
	for _, hash := range []string{hash, again} {
		parsed, err := parse(hash)
		if err != nil {
			t.Fatal(err)
		}
		salts = append(salts, string(parsed.(phc).salt))
	}
	if len(salts[0]) != 16 || salts[0] == salts[1] {
		t.Errorf("got the salts %q, want two different salts with 16 bytes", salts)
	}
	for password, want := range map[string]bool{
		"lovelace-1843":  true,
		"lovelace-1844":  false,
		"lovelace-184":   false,
		"lovelace-1843 ": false,
		"":               false,
		"ｌovelace-1843":  true, // begins with a full-width l, which NFKC maps to l
	} {
		ok, rehash, err := h.Verify(t.Context(), hash, password)
		if ok != want || rehash || err != nil {
			t.Errorf("Verify(%q) = %v, %v, %v; want %v, false, nil", password, ok, rehash, err, want)
		}
	}
}

// TestVerifyForeignHash verifies a hash that the reference implementation, github.com/P-H-C/phc-winner-argon2,
// computed with this command:
//
//	printf password | argon2 somesalt -id -t 2 -k 256 -p 2 -l 32 -e
func TestVerifyForeignHash(t *testing.T) {
	h := NewHasher(1, time.Minute)
	hash := "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"
	ok, rehash, err := h.Verify(t.Context(), hash, "password")
	if !ok || !rehash || err != nil {
		t.Errorf("Verify = %v, %v, %v; want true, true, nil", ok, rehash, err)
	}
	ok, rehash, err = h.Verify(t.Context(), hash, "wrong password")
	if ok || rehash || err != nil {
		t.Errorf("Verify of a wrong password = %v, %v, %v; want false, false, nil", ok, rehash, err)
	}
}

func TestEveryVerifyComputesOneHash(t *testing.T) {
	for name, hash := range map[string]string{
		"dummy":     Dummy,
		"empty":     "",
		"malformed": "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUX",
		"PBKDF2":    "$pbkdf2-sha256$0$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
		"too large": "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHasher(1, time.Minute)
			var computed []params
			h.algorithms.argon2id = func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte {
				computed = append(computed, params{memory, time, threads})
				return argon2.IDKey(password, salt, time, memory, threads, keyLen)
			}
			ok, rehash, err := h.Verify(t.Context(), hash, "password")
			if ok || rehash {
				t.Errorf("Verify = %v, %v; want false, false", ok, rehash)
			}
			if got, want := errors.Is(err, ErrMalformed), name != "dummy"; got != want {
				t.Errorf("got error %v, which wraps ErrMalformed: %v, want %v", err, got, want)
			}
			if len(computed) != 1 || computed[0] != current {
				t.Errorf("computed hashes with the parameters %v, want one hash with the current parameters", computed)
			}
		})
	}
}

func TestHasherBoundsHowManyRunAtOnce(t *testing.T) {
	const slots, callers = 3, 40
	h := NewHasher(slots, time.Minute)
	var running, most, total atomic.Int32
	full := make(chan struct{})
	h.algorithms.argon2id = func(_, _ []byte, _, _ uint32, _ uint8, keyLen uint32) []byte {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if total.Add(1) == slots {
			close(full)
		}
		<-full // no hash ends before all slots are in use
		return make([]byte, keyLen)
	}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if _, err := h.Hash(t.Context(), "password"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != slots || total.Load() != callers {
		t.Errorf("at most %d of %d hashes ran at the same time, want %d of %d", most.Load(), total.Load(), slots, callers)
	}
}

func TestWaitForSlotEnds(t *testing.T) {
	h := NewHasher(1, time.Millisecond)
	started, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	h.algorithms.argon2id = func(_, _ []byte, _, _ uint32, _ uint8, keyLen uint32) []byte {
		if calls.Add(1) == 1 {
			close(started)
			<-release
		}
		return make([]byte, keyLen)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = h.Hash(t.Context(), "password") })
	<-started
	if _, _, err := h.Verify(t.Context(), Dummy, "password"); !errors.Is(err, problem.Unavailable) {
		t.Errorf("no free slot: got %v, want problem.Unavailable", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Hash(gone, "password"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled context: got %v, want context.Canceled", err)
	}
	if calls.Load() != 1 {
		t.Errorf("computed %d hashes, want 1, for the caller that holds the slot", calls.Load())
	}
	close(release)
	wg.Wait()
	if _, err := h.Hash(t.Context(), "password"); err != nil {
		t.Errorf("after the slot was released: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Dummy)
	f.Add("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc")
	f.Add("$argon2id$v=19$m=0019456,t=2,p=1$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuA")
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$$")
	f.Add("$argon2id$v=19$m=99999999999999999999,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA")
	for hash := range imported {
		f.Add(hash)
	}
	f.Add("$2b$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")
	f.Add("$pbkdf2-sha256$i=2000000,l=64$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("pbkdf2_sha256$2000001$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parse(s)
		if err != nil {
			if h != nil || !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, %v; want nil and ErrMalformed", h, err)
			}
			return
		}
		if got := h.String(); got != s {
			t.Errorf("String() = %q, want %q", got, s)
		}
		within := false
		switch p := h.(type) {
		case phc:
			within = p.memory <= maxMemory && p.memory >= 8*uint32(p.threads) && p.time >= 1 && p.time <= maxTime && p.threads >= 1 && p.threads <= maxThreads &&
				len(p.salt) >= minSalt && len(p.salt) <= maxSalt && len(p.key) >= minKey && len(p.key) <= maxKey
		case bcryptHash:
			cost, err := bcrypt.Cost([]byte(p))
			within = err == nil && cost <= 14
		case pbkdf2Hash:
			within = p.iterations >= 1 && p.iterations*p.blocks() <= maxIterations && p.blocks() <= 2 &&
				len(p.salt) >= 1 && len(p.salt) <= maxPBKDF2Salt && len(p.key) >= minPBKDF2Key && len(p.key) <= maxPBKDF2Key
		}
		if !within {
			t.Errorf("got parameters out of bounds: %#v", h)
		}
	})
}
