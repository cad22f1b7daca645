package password

import (
	"errors"
	"hash"
	"strings"
	"testing"
	"time"
)

// imported maps hashes from other implementations to their passwords. The hashes are from the tests of crypt_blowfish,
// jBCrypt, Passlib, Ory Kratos and Django, and from RFC 7914 §11.
var imported = map[string]string{
	"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": "U*U",
	"$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": "U*U",
	"$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK": "U*U*",
	"$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a": "U*U*U",
	"$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy": "",
	"$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
	"$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq": "\xa3",
	"$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.": "",
	"$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe": "a",

	"$pbkdf2-sha256$i=1,l=64$c2FsdA$VawEblbjCJ/sFpHCJUS2BflBhSFt3gRl5oudV8INrLxJypzM8Xm2RZkWZLOdd+8xfHG4RbHjC9UJESBB06GXgw":             "passwd",
	"$pbkdf2-sha256$i=80000$TmFDbA$TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1ah1CWhIlgzVJrbhBtRybMXaicr3ruh0HhHj2Kzl/M8jQ":              "Password",
	"$pbkdf2-sha256$i=100000,l=32$1jP+5Zxpxgtee/iPxGgOz0RfE9/KJuDElP1ley4VxXc$QJxzfvdbHYBpydCbHoFg3GJEqMFULwskiuqiJctoYpI":              "test",
	"$pbkdf2-sha512$i=100000,l=32$bdHBpn7OWOivJMVJypy2UqR0UnaD5prQXRZevj/05YU$+wArTfv1a+bNGO1iZrmEdVjhA+lL11wF4/IxpgYfPwc":              "test",
	"$pbkdf2-sha256$1212$4vjV83LKPjQzk31VI4E0Vw$hsYF68OiOUPdDZ1Fg.fJPeq1h/gXXY7acBp9/6c.tmQ":                                            "password",
	"$pbkdf2-sha256$1212$3SABFJGDtyhrQMVt1uABPw$WyaUoqCLgvz97s523nF4iuOqZNbp5Nt8do/cuaa7AiI":                                            "\u0399\u03c9\u03b1\u03bd\u03bd\u03b7\u03c2",
	"$pbkdf2-sha512$1212$RHY0Fr3IDMSVO/RSZyb5ow$eNLfBK.eVozomMr.1gYa17k9B7KIK25NOEshvhrSX.esqY3s.FvWZViXz4KoLlQI.BzY/YTNJOiKc5gBYFYGww": "password",
	"pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=":                                                          "l\u00e8tmein",
	"pbkdf2_sha256$100000$seasalt$BNZ6eyaNc8qFTJPjrAq99hSYb73EgAdytAtdBg2Sdcc=":                                                         "l\u00e8tmein",
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
	for hash, right := range imported {
		algorithm := "bcrypt"
		if strings.Contains(hash, "pbkdf2") {
			algorithm = "pbkdf2"
		}
		for password, want := range map[string]bool{right: true, right + "x": false, "wrong": false} {
			var computed []string
			ok, rehash, err := counting(&computed).Verify(t.Context(), hash, password)
			if ok != want || rehash != want || err != nil {
				t.Errorf("Verify(%s, %q) = %v, %v, %v; want %v, %v, nil", hash, password, ok, rehash, err, want, want)
			}
			if len(computed) != 1 || computed[0] != algorithm {
				t.Errorf("Verify(%s, %q) computed %v, want one %s", hash, password, computed, algorithm)
			}
		}
	}
}

// TestImportedHashesAreOfBytes checks that Verify does not normalize a password before it compares the password with
// an imported hash. Each password here equals the original password only after normalization to NFKC.
func TestImportedHashesAreOfBytes(t *testing.T) {
	for hash, password := range map[string]string{
		"pbkdf2_sha256$24000$seasalt$V9DfCAVoweeLwxC/L2mb+7swhzF0XYdyQMqmusZqiTc=": "le\u0300tmein",
		"$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe":             "\uff41",
	} {
		var computed []string
		ok, rehash, err := counting(&computed).Verify(t.Context(), hash, password)
		if ok || rehash || err != nil || len(computed) != 1 {
			t.Errorf("Verify(%s, %q) = %v, %v, %v after %v; want false, false, nil after one hash", hash, password, ok, rehash, err, computed)
		}
	}
}

// TestBcryptComparesWholePasswords checks that Verify refuses wrong passwords that bcrypt itself accepts.
func TestBcryptComparesWholePasswords(t *testing.T) {
	for hash, password := range map[string]string{
		"$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored",
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": "U*U\x00U*U",
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy": "\x00",
	} {
		var computed []string
		h := counting(&computed)
		if err := h.algorithms.bcrypt([]byte(hash), []byte(password)); err != nil {
			t.Errorf("bcrypt itself refuses %q: %v", password, err)
		}
		computed = nil
		ok, rehash, err := h.Verify(t.Context(), hash, password)
		if ok || rehash || err != nil || len(computed) != 1 {
			t.Errorf("Verify(%q) = %v, %v, %v after %v; want false, false, nil after one hash", password, ok, rehash, err, computed)
		}
	}
}

func TestComputationThatFails(t *testing.T) {
	broken := errors.New("broken")
	h := NewHasher(1, time.Minute)
	h.algorithms.bcrypt = func([]byte, []byte) error { return broken }
	h.algorithms.pbkdf2 = func(func() hash.Hash, string, []byte, int, int) ([]byte, error) { return nil, broken }
	for hash, password := range imported {
		if ok, rehash, err := h.Verify(t.Context(), hash, password); ok || rehash || !errors.Is(err, broken) {
			t.Errorf("Verify(%s) = %v, %v, %v; want false, false and the error", hash, ok, rehash, err)
		}
	}
}

// TestCheckHash checks which formats and parameters of stored hashes are accepted.
func TestCheckHash(t *testing.T) {
	const (
		argonSalt = "c29tZXNhbHQ"
		b22, b31  = "CCCCCCCCCCCCCCCCCCCCC.", "E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
		key       = "bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"
		long      = "TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1ah1CWhIlgzVJrbhBtRybMXaicr3ruh0HhHj2Kzl/M8jQ"
		salt64    = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg"
		salt65    = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZmc"
	)
	for valid, hashes := range map[bool]map[string]string{
		true: {
			"argon2id, valid":                      "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, largest":                    "$argon2id$v=19$m=65536,t=10,p=4$" + argonSalt + "$" + key,
			"bcrypt":                               "$2b$12$" + b22 + b31,
			"bcrypt, maximum cost":                 "$2b$14$" + b22 + b31,
			"bcrypt, stray bits in salt":           "$2b$12$CCCCCCCCCCCCCCCCCCCCCC" + b31,
			"PBKDF2":                               "$pbkdf2-sha256$i=600000$c29tZXNhbHQ$" + key,
			"PBKDF2, maximum iterations":           "$pbkdf2-sha256$i=2000000$c29tZXNhbHQ$" + key,
			"PBKDF2, maximum for two blocks":       "$pbkdf2-sha256$i=1000000$c29tZXNhbHQ$" + long,
			"PBKDF2, maximum for one longer block": "$pbkdf2-sha512$i=2000000$c29tZXNhbHQ$" + long,
			"PBKDF2, stated length":                "$pbkdf2-sha256$i=1,l=32$c29tZXNhbHQ$" + key,
			"PBKDF2, longest salt":                 "$pbkdf2-sha256$i=1$" + salt64 + "$" + key,
			"PBKDF2, shortest key":                 "$pbkdf2-sha256$i=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
			"Passlib":                              "$pbkdf2-sha256$29000$c29tZXNhbHQ$" + key,
			"Django":                               "pbkdf2_sha256$600000$seasalt$" + key + "=",
		},
		false: {
			"argon2id, too much memory":       "$argon2id$v=19$m=65537,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, too little memory":     "$argon2id$v=19$m=31,t=2,p=4$" + argonSalt + "$" + key,
			"argon2id, no passes":             "$argon2id$v=19$m=19456,t=0,p=1$" + argonSalt + "$" + key,
			"argon2id, too many passes":       "$argon2id$v=19$m=19456,t=11,p=1$" + argonSalt + "$" + key,
			"argon2id, no threads":            "$argon2id$v=19$m=19456,t=2,p=0$" + argonSalt + "$" + key,
			"argon2id, too many threads":      "$argon2id$v=19$m=19456,t=2,p=5$" + argonSalt + "$" + key,
			"argon2id, threads overflow":      "$argon2id$v=19$m=19456,t=2,p=257$" + argonSalt + "$" + key,
			"argon2id, memory overflow":       "$argon2id$v=19$m=4294986752,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, leading zero":          "$argon2id$v=19$m=019456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, sign":                  "$argon2id$v=19$m=+19456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, other order":           "$argon2id$v=19$t=2,m=19456,p=1$" + argonSalt + "$" + key,
			"argon2id, other variant":         "$argon2i$v=19$m=19456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, other version":         "$argon2id$v=16$m=19456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, no version":            "$argon2id$m=19456,t=2,p=1$" + argonSalt + "$" + key,
			"argon2id, padded salt":           "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "=$" + key,
			"argon2id, short salt":            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$" + key,
			"argon2id, short key":             "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$bQk8UB",
			"argon2id, empty key":             "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$",
			"argon2id, trailing bits":         "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$" + key[:len(key)-1] + "d",
			"argon2id, line break":            "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$" + key + "\n",
			"argon2id, line break in salt":    "$argon2id$v=19$m=19456,t=2,p=1$c29t\nZXNhbHQ$" + key,
			"argon2id, trailing part":         "$argon2id$v=19$m=19456,t=2,p=1$" + argonSalt + "$" + key + "$",
			"empty":                           "",
			"bcrypt, stray bits in key":       "$2b$12$" + b22 + b31[:30] + "X",
			"bcrypt, cost too high":           "$2b$15$" + b22 + b31,
			"bcrypt, cost too low":            "$2b$03$" + b22 + b31,
			"bcrypt, cost with one digit":     "$2b$5$" + b22 + b31,
			"bcrypt, cost with a sign":        "$2b$+5$" + b22 + b31,
			"bcrypt, first version":           "$2$12$" + b22 + b31,
			"bcrypt, version with a bug":      "$2x$12$" + b22 + b31,
			"bcrypt, short":                   "$2b$12$" + b22 + b31[:30],
			"bcrypt, long":                    "$2b$12$" + b22 + b31 + ".",
			"bcrypt, line break":              "$2b$12$" + b22 + b31 + "\n",
			"bcrypt, another alphabet":        "$2b$12$" + b22 + "+" + b31[1:],
			"PBKDF2, too many iterations":     "$pbkdf2-sha256$i=2000001$c29tZXNhbHQ$" + key,
			"PBKDF2, too many for two blocks": "$pbkdf2-sha256$i=1000001$c29tZXNhbHQ$" + long,
			"PBKDF2, overflow":                "$pbkdf2-sha256$i=18446744073709551617$c29tZXNhbHQ$" + key,
			"PBKDF2, no iterations":           "$pbkdf2-sha256$i=0$c29tZXNhbHQ$" + key,
			"PBKDF2, leading zero":            "$pbkdf2-sha256$i=01$c29tZXNhbHQ$" + key,
			"PBKDF2, negative":                "$pbkdf2-sha256$i=-1$c29tZXNhbHQ$" + key,
			"PBKDF2, wrong stated length":     "$pbkdf2-sha256$i=1,l=64$c29tZXNhbHQ$" + key,
			"PBKDF2, unsupported digest":      "$pbkdf2-sha1$i=1$c29tZXNhbHQ$" + key,
			"PBKDF2, no digest":               "$pbkdf2$i=1$c29tZXNhbHQ$" + key,
			"PBKDF2, salt too long":           "$pbkdf2-sha256$i=1$" + salt65 + "$" + key,
			"PBKDF2, no salt":                 "$pbkdf2-sha256$i=1$$" + key,
			"PBKDF2, short key":               "$pbkdf2-sha256$i=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2Rl",
			"PBKDF2, key too long":            "$pbkdf2-sha512$i=1$c29tZXNhbHQ$" + salt65,
			"PBKDF2, padded":                  "$pbkdf2-sha256$i=1$c29tZXNhbHQ=$" + key,
			"PBKDF2, stray bits":              "$pbkdf2-sha256$i=1$c29tZXNhbHR$" + key,
			"PBKDF2, line break":              "$pbkdf2-sha256$i=1$c29tZXNhbHQ$" + key + "\n",
			"Passlib, plus sign":              "$pbkdf2-sha256$29000$c29tZXNhbHQ$+" + key[1:],
			"Passlib, leading zero":           "$pbkdf2-sha256$029000$c29tZXNhbHQ$" + key,
			"Passlib, trailing part":          "$pbkdf2-sha256$29000$c29tZXNhbHQ$" + key + "$",
			"Django, too many iterations":     "pbkdf2_sha256$2000001$seasalt$" + key + "=",
			"Django, not padded":              "pbkdf2_sha256$600000$seasalt$" + key,
			"Django, salt with a space":       "pbkdf2_sha256$600000$sea salt$" + key + "=",
			"Django, salt too long":           "pbkdf2_sha256$600000$" + strings.Repeat("s", 65) + "$" + key + "=",
			"Django, unsupported digest":      "pbkdf2_sha1$600000$seasalt$" + key + "=",
			"Django, marked as unusable":      "!Kz7Qb0zvEbS2dZ7hP0pFdGzVtTq0mX1LhCjWbQ3n",
			"SHA-512 crypt, unsupported":      "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
		},
	} {
		for name, hash := range hashes {
			if err := CheckHash(hash); (err == nil) != valid || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: got error %v, want valid: %t", name, err, valid)
			}
		}
	}
}
