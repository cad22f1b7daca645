package password

import (
	"errors"
	"hash"
	"strings"
	"testing"
	"time"
)

// imported contains passwords with their hashes from other implementations: from the tests of crypt_blowfish, jBCrypt,
// Passlib, Ory Kratos and Django, and from RFC 7914 §11.
var imported = []struct{ hash, password string }{
	{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
	{"$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
	{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"},
	{"$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a", "U*U*U"},
	{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", ""},
	{"$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"},
	{"$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", "\xa3"},
	{"$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""},
	{"$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"},

	{"$pbkdf2-sha256$i=1,l=64$c2FsdA$VawEblbjCJ/sFpHCJUS2BflBhSFt3gRl5oudV8INrLxJypzM8Xm2RZkWZLOdd+8xfHG4RbHjC9UJESBB06GXgw", "passwd"},
	{"$pbkdf2-sha256$i=80000$TmFDbA$TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1ah1CWhIlgzVJrbhBtRybMXaicr3ruh0HhHj2Kzl/M8jQ", "Password"},
	{"$pbkdf2-sha256$i=100000,l=32$1jP+5Zxpxgtee/iPxGgOz0RfE9/KJuDElP1ley4VxXc$QJxzfvdbHYBpydCbHoFg3GJEqMFULwskiuqiJctoYpI", "test"},
	{"$pbkdf2-sha512$i=100000,l=32$bdHBpn7OWOivJMVJypy2UqR0UnaD5prQXRZevj/05YU$+wArTfv1a+bNGO1iZrmEdVjhA+lL11wF4/IxpgYfPwc", "test"},
	{"$pbkdf2-sha256$1212$4vjV83LKPjQzk31VI4E0Vw$hsYF68OiOUPdDZ1Fg.fJPeq1h/gXXY7acBp9/6c.tmQ", "password"},
	{"$pbkdf2-sha256$1212$3SABFJGDtyhrQMVt1uABPw$WyaUoqCLgvz97s523nF4iuOqZNbp5Nt8do/cuaa7AiI", "\u0399\u03c9\u03b1\u03bd\u03bd\u03b7\u03c2"},
	{"$pbkdf2-sha512$1212$RHY0Fr3IDMSVO/RSZyb5ow$eNLfBK.eVozomMr.1gYa17k9B7KIK25NOEshvhrSX.esqY3s.FvWZViXz4KoLlQI.BzY/YTNJOiKc5gBYFYGww", "password"},
	{"pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=", "l\u00e8tmein"},
	{"pbkdf2_sha256$100000$seasalt$BNZ6eyaNc8qFTJPjrAq99hSYb73EgAdytAtdBg2Sdcc=", "l\u00e8tmein"},
}

// counting returns a Hasher that appends the algorithm of each hash that it computes to computed.
func counting(computed *[]string) *Hasher {
	h := NewHasher(1, time.Minute)
	a := h.algorithms
	h.algorithms = algorithms{
		argon2id: func(password, salt []byte, time, memory uint32, threads uint8, keyLen uint32) []byte {
			*computed = append(*computed, "argon2id")
			return a.argon2id(password, salt, time, memory, threads, keyLen)
		},
		bcrypt: func(hash, password []byte) error {
			*computed = append(*computed, "bcrypt")
			return a.bcrypt(hash, password)
		},
		pbkdf2: func(digest func() hash.Hash, password string, salt []byte, iterations, keyLength int) ([]byte, error) {
			*computed = append(*computed, "pbkdf2")
			return a.pbkdf2(digest, password, salt, iterations, keyLength)
		},
	}
	return h
}

func TestVerifyImported(t *testing.T) {
	for _, test := range imported {
		algorithm := "bcrypt"
		if strings.Contains(test.hash, "pbkdf2") {
			algorithm = "pbkdf2"
		}
		for password, want := range map[string]bool{test.password: true, test.password + "x": false, "wrong": false} {
			var computed []string
			ok, rehash, err := counting(&computed).Verify(t.Context(), test.hash, password)
			if ok != want || rehash != want || err != nil {
				t.Errorf("Verify(%s, %q) = %v, %v, %v; want %v, %v, nil", test.hash, password, ok, rehash, err, want, want)
			}
			if len(computed) != 1 || computed[0] != algorithm {
				t.Errorf("Verify(%s, %q) computed %v, want one %s", test.hash, password, computed, algorithm)
			}
		}
	}
}

// TestImportedHashesAreOfBytes checks that Verify does not normalize a password before it compares the password with
// an imported hash. Each password here equals the original password only after normalization to NFKC.
func TestImportedHashesAreOfBytes(t *testing.T) {
	for _, test := range []struct{ hash, password string }{
		{"pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=", "le\u0300tmein"},
		{"$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "\uff41"},
	} {
		var computed []string
		ok, rehash, err := counting(&computed).Verify(t.Context(), test.hash, test.password)
		if ok || rehash || err != nil || len(computed) != 1 {
			t.Errorf("Verify(%s, %q) = %v, %v, %v after %v; want false, false, nil after one hash", test.hash, test.password, ok, rehash, err, computed)
		}
	}
}

// TestBcryptComparesWholePasswords checks that Verify refuses wrong passwords that bcrypt itself accepts.
func TestBcryptComparesWholePasswords(t *testing.T) {
	for _, test := range []struct{ hash, password string }{
		{"$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
			"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored"},
		{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U\x00U*U"},
		{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", "\x00"},
	} {
		var computed []string
		h := counting(&computed)
		if err := h.algorithms.bcrypt([]byte(test.hash), []byte(test.password)); err != nil {
			t.Errorf("bcrypt itself refuses %q: %v", test.password, err)
		}
		computed = nil
		ok, rehash, err := h.Verify(t.Context(), test.hash, test.password)
		if ok || rehash || err != nil || len(computed) != 1 {
			t.Errorf("Verify(%q) = %v, %v, %v after %v; want false, false, nil after one hash", test.password, ok, rehash, err, computed)
		}
	}
}

func TestComputationThatFails(t *testing.T) {
	broken := errors.New("broken")
	h := NewHasher(1, time.Minute)
	h.algorithms.bcrypt = func([]byte, []byte) error { return broken }
	h.algorithms.pbkdf2 = func(func() hash.Hash, string, []byte, int, int) ([]byte, error) { return nil, broken }
	for _, test := range imported {
		if ok, rehash, err := h.Verify(t.Context(), test.hash, test.password); ok || rehash || !errors.Is(err, broken) {
			t.Errorf("Verify(%s) = %v, %v, %v; want false, false and the error", test.hash, ok, rehash, err)
		}
	}
}

func TestParseImported(t *testing.T) {
	const (
		b22, b31 = "CCCCCCCCCCCCCCCCCCCCC.", "E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
		key      = "bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"
		long     = "TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1ah1CWhIlgzVJrbhBtRybMXaicr3ruh0HhHj2Kzl/M8jQ"
		salt64   = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg"
		salt65   = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZmc"
	)
	for name, test := range map[string]struct {
		hash string
		ok   bool
	}{
		"bcrypt":                      {"$2b$12$" + b22 + b31, true},
		"bcrypt, maximum cost":        {"$2b$14$" + b22 + b31, true},
		"bcrypt, stray bits in salt":  {"$2b$12$CCCCCCCCCCCCCCCCCCCCCC" + b31, true},
		"bcrypt, stray bits in key":   {"$2b$12$" + b22 + b31[:30] + "X", false},
		"bcrypt, cost too high":       {"$2b$15$" + b22 + b31, false},
		"bcrypt, cost too low":        {"$2b$03$" + b22 + b31, false},
		"bcrypt, cost with one digit": {"$2b$5$" + b22 + b31, false},
		"bcrypt, cost with a sign":    {"$2b$+5$" + b22 + b31, false},
		"bcrypt, first version":       {"$2$12$" + b22 + b31, false},
		"bcrypt, version with a bug":  {"$2x$12$" + b22 + b31, false},
		"bcrypt, short":               {"$2b$12$" + b22 + b31[:30], false},
		"bcrypt, long":                {"$2b$12$" + b22 + b31 + ".", false},
		"bcrypt, line break":          {"$2b$12$" + b22 + b31 + "\n", false},
		"bcrypt, another alphabet":    {"$2b$12$" + b22 + "+" + b31[1:], false},

		"PBKDF2":                               {"$pbkdf2-sha256$i=600000$c29tZXNhbHQ$" + key, true},
		"PBKDF2, maximum iterations":           {"$pbkdf2-sha256$i=2000000$c29tZXNhbHQ$" + key, true},
		"PBKDF2, too many iterations":          {"$pbkdf2-sha256$i=2000001$c29tZXNhbHQ$" + key, false},
		"PBKDF2, maximum for two blocks":       {"$pbkdf2-sha256$i=1000000$c29tZXNhbHQ$" + long, true},
		"PBKDF2, too many for two blocks":      {"$pbkdf2-sha256$i=1000001$c29tZXNhbHQ$" + long, false},
		"PBKDF2, maximum for one longer block": {"$pbkdf2-sha512$i=2000000$c29tZXNhbHQ$" + long, true},
		"PBKDF2, overflow":                     {"$pbkdf2-sha256$i=18446744073709551617$c29tZXNhbHQ$" + key, false},
		"PBKDF2, no iterations":                {"$pbkdf2-sha256$i=0$c29tZXNhbHQ$" + key, false},
		"PBKDF2, leading zero":                 {"$pbkdf2-sha256$i=01$c29tZXNhbHQ$" + key, false},
		"PBKDF2, negative":                     {"$pbkdf2-sha256$i=-1$c29tZXNhbHQ$" + key, false},
		"PBKDF2, stated length":                {"$pbkdf2-sha256$i=1,l=32$c29tZXNhbHQ$" + key, true},
		"PBKDF2, wrong stated length":          {"$pbkdf2-sha256$i=1,l=64$c29tZXNhbHQ$" + key, false},
		"PBKDF2, unsupported digest":           {"$pbkdf2-sha1$i=1$c29tZXNhbHQ$" + key, false},
		"PBKDF2, no digest":                    {"$pbkdf2$i=1$c29tZXNhbHQ$" + key, false},
		"PBKDF2, longest salt":                 {"$pbkdf2-sha256$i=1$" + salt64 + "$" + key, true},
		"PBKDF2, salt too long":                {"$pbkdf2-sha256$i=1$" + salt65 + "$" + key, false},
		"PBKDF2, no salt":                      {"$pbkdf2-sha256$i=1$$" + key, false},
		"PBKDF2, short key":                    {"$pbkdf2-sha256$i=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2Rl", false},
		"PBKDF2, shortest key":                 {"$pbkdf2-sha256$i=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg", true},
		"PBKDF2, key too long":                 {"$pbkdf2-sha512$i=1$c29tZXNhbHQ$" + salt65, false},
		"PBKDF2, padded":                       {"$pbkdf2-sha256$i=1$c29tZXNhbHQ=$" + key, false},
		"PBKDF2, stray bits":                   {"$pbkdf2-sha256$i=1$c29tZXNhbHR$" + key, false},
		"PBKDF2, line break":                   {"$pbkdf2-sha256$i=1$c29tZXNhbHQ$" + key + "\n", false},
		"Passlib":                              {"$pbkdf2-sha256$29000$c29tZXNhbHQ$" + key, true},
		"Passlib, plus sign":                   {"$pbkdf2-sha256$29000$c29tZXNhbHQ$+" + key[1:], false},
		"Passlib, leading zero":                {"$pbkdf2-sha256$029000$c29tZXNhbHQ$" + key, false},
		"Passlib, trailing part":               {"$pbkdf2-sha256$29000$c29tZXNhbHQ$" + key + "$", false},
		"Django":                               {"pbkdf2_sha256$600000$seasalt$" + key + "=", true},
		"Django, too many iterations":          {"pbkdf2_sha256$2000001$seasalt$" + key + "=", false},
		"Django, not padded":                   {"pbkdf2_sha256$600000$seasalt$" + key, false},
		"Django, salt with a space":            {"pbkdf2_sha256$600000$sea salt$" + key + "=", false},
		"Django, salt too long":                {"pbkdf2_sha256$600000$" + strings.Repeat("s", 65) + "$" + key + "=", false},
		"Django, unsupported digest":           {"pbkdf2_sha1$600000$seasalt$" + key + "=", false},
		"Django, marked as unusable":           {"!Kz7Qb0zvEbS2dZ7hP0pFdGzVtTq0mX1LhCjWbQ3n", false},
		"SHA-512 crypt, unsupported":           {"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1", false},
	} {
		if err := CheckHash(test.hash); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got error %v, want valid: %v", name, err, test.ok)
		}
	}
}
