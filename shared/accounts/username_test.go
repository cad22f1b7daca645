package accounts

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

func TestCanonicalUsername(t *testing.T) {
	for _, test := range []struct{ name, want string }{ // want is empty if the name is invalid
		{name: "ada", want: "ada"},
		{name: "Ada", want: "ada"},
		{name: "ＡＤＡ", want: "ada"}, // full-width
		{name: "Straße", want: "strasse"},
		{name: "ΣΊΣΥΦΟΣ", want: "σίσυφοσ"},
		{name: "jose\u0301", want: "josé"},
		{name: "ﬁlip", want: "filip"},
		{name: "ada lovelace", want: "ada lovelace"},
		{name: "ada@example.org", want: "ada@example.org"},
		{name: "李小龍", want: "李小龍"},
		{name: strings.Repeat("x", 64), want: strings.Repeat("x", 64)},
		{name: strings.Repeat("ж", 64), want: strings.Repeat("ж", 64)},
		{name: strings.Repeat("x", 65)},
		{name: strings.Repeat("\uFDFA", 10)}, // 10 characters, 180 after NFKC
		{name: strings.Repeat("x", 1<<20)},
		{name: ""},
		{name: " "},
		{name: " ada"},
		{name: "ada "},
		{name: "ada\u00a0"},
		{name: "ada\n"},
		{name: "a\x00da"},
		{name: "a\u200bda"}, // zero-width space
		{name: "\u202eada"}, // right-to-left override
		{name: "a\u2028da"},
		{name: "a\xffda"},
		{name: "a\ufffdda"},
		{name: "a\ue000da"}, // private use
	} {
		got, err := CanonicalUsername(test.name)
		if test.want == "" && !errors.Is(err, problem.Unprocessable) || test.want != "" && (got != test.want || err != nil) {
			t.Errorf("CanonicalUsername(%.80q) = %.80q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

func FuzzCanonicalUsername(f *testing.F) {
	for _, name := range []string{"Ada", "Straße", "\u1fb3\u0345", "ᾳ\u0301", "ﬃ", "İ", "ͅa", "Ω", " x", "\xff"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := CanonicalUsername(name)
		if err != nil {
			return
		}
		if again, err := CanonicalUsername(got); again != got || err != nil {
			t.Errorf("%q: got %q, whose canonical form is %q, %v; want itself", name, got, again, err)
		}
		if n := utf8.RuneCountInString(got); n < 1 || n > 64 || strings.TrimSpace(got) != got {
			t.Errorf("%q: got %q, want 1 to 64 characters without outer spaces", name, got)
		}
	})
}
