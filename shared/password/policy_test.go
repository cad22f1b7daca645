package password

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func newPolicy(t *testing.T, minLength int) Policy {
	t.Helper()
	policy, err := PolicySettings{MinLength: minLength}.Policy()
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// TestWeakPasswords checks that a password that is short in characters, or that attackers try first, cannot be chosen.
func TestWeakPasswords(t *testing.T) {
	const length, list, name = "12 to 128 characters", "breached", "user name"
	for password, rule := range map[string]string{ // the rule is empty for an allowed password
		"":                                     length,
		"elevenchars":                          length,
		"seven       7":                        length, // 7 characters after the spaces are combined
		"seven\u3000\u3000\u3000\u3000\u30007": length, // ideographic spaces
		"\uFDFA" + strings.Repeat(" ", 12):     length, // 2 characters, or 19 after NFKC
		"        ":                             length,
		"🔑🔑":                                   length, // 8 bytes
		"€€€€":                                 length, // 12 bytes
		strings.Repeat("e\u0301", 11):          length, // 11 characters after NFKC
		"\uFDFA":                               length, // 18 characters after NFKC
		strings.Repeat("x", 129):               length,
		strings.Repeat("\uFDFA", 12):           length, // 216 characters after NFKC
		"123456789012":                         list,
		"qwertyqwerty":                         list,
		"QwertyQwerty":                         list,
		"ｑｗｅｒｔｙｑｗｅｒｔｙ":                         list, // full-width
		"administrator":                        list,
		"1qaz2wsx3edc":                         list,
		"strongroom12":                         name,
		"Strongroom-2026":                      name,
		"stronGroomstrongroom":                 name,
		"strongroompassword":                   name, // the rest is on the list
		"ada-byron1234":                        name,
		"ADA-Byronpassword":                    name,
		"ａda-byron ada-byron":                  name, // begins with a full-width a
		"lovelace-1843":                        "",
		"correct horse battery":                "",
		"  spaces, and more  spaces  ":         "",
		"ключ от сейфа":                        "",
		strings.Repeat("🔑", 12):                "",
		strings.Repeat("a\u0301", 64):          "",
		strings.Repeat("\uFF41", 128):          "", // full-width
		"ada-byron opens the strongroom":       "",
		"invalid \xff utf-8":                   "UTF-8",
		"replaced \ufffd utf-8":                "UTF-8",
	} {
		err := newPolicy(t, 12).Check(password, "ada-byron")
		if rule == "" && err != nil {
			t.Errorf("Check(%q) = %v, want nil", password, err)
		}
		if rule != "" && (!errors.Is(err, problem.Unprocessable) || !strings.Contains(err.Error(), rule)) {
			t.Errorf("Check(%q) = %v, want a problem.Unprocessable with %q", password, err, rule)
		}
	}
}

// TestWeakShortPasswords checks that a lower minimum length does not allow the most common passwords.
func TestWeakShortPasswords(t *testing.T) {
	policy := newPolicy(t, 8)
	for _, weak := range []string{"password", "Passw0rd", "12345678", "qwertyui", "aaaaaaaa", "admin123", "seven77", "strongroom"} {
		if err := policy.Check(weak, "ada"); !errors.Is(err, problem.Unprocessable) {
			t.Errorf("Check(%q) = %v, want problem.Unprocessable", weak, err)
		}
	}
	if err := policy.Check("babb1822", "ada"); err != nil {
		t.Errorf("Check of a password with 8 characters = %v, want nil", err)
	}
}

func TestMinLength(t *testing.T) {
	for n, valid := range map[int]bool{-1: false, 0: false, 7: false, 8: true, 64: true, 65: false} {
		_, err := PolicySettings{MinLength: n}.Policy()
		if (err == nil) != valid || err != nil && !strings.Contains(err.Error(), "PASSWORD_MIN_LENGTH") {
			t.Errorf("PASSWORD_MIN_LENGTH=%d: got %v, want a valid setting: %t", n, err, valid)
		}
	}
}

// TestBreachedPasswords checks the form and the size of the list. OWASP ASVS 4.0.3, 2.1.7, requires at least the 1,000
// most common passwords that match the policy.
func TestBreachedPasswords(t *testing.T) {
	list := newPolicy(t, 12).breached
	if !slices.IsSorted(list) {
		t.Error("the list is not sorted")
	}
	long := 0
	for i, entry := range list {
		if fold(entry) != entry || utf8.RuneCountInString(entry) < leastMinLength || i > 0 && list[i-1] == entry {
			t.Errorf("got the entry %q, want a unique folded password with at least %d characters", entry, leastMinLength)
		}
		if utf8.RuneCountInString(entry) >= 12 {
			long++
		}
	}
	if long < 10_000 || len(list)-long < 9_000 {
		t.Errorf("got %d passwords with 12 or more characters and %d with fewer, want at least 10000 and 9000", long, len(list)-long)
	}
}

func TestSame(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"lovelace-1843", "lovelace-1843", true},
		{"ｌovelace-1843", "lovelace-1843", true}, // begins with a full-width l
		{"Lovelace-1843", "lovelace-1843", false},
		{"lovelace-1843 ", "lovelace-1843", false},
	} {
		if got := Same(test.a, test.b); got != test.want {
			t.Errorf("Same(%q, %q) = %t, want %t", test.a, test.b, got, test.want)
		}
	}
}
