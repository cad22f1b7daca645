//go:build audit

package main

import (
	"net/http"
	"strings"
	"testing"
	"unicode"
)

// TestAuditQuotaCountsFiles checks data B2: a quota of one byte does not let a user upload any number of empty files.
func TestAuditQuotaCountsFiles(t *testing.T) {
	const most, tries = 1000, 2000
	f := newFixture(t)
	f.limit(t, 1)
	accepted := 0
	for range tries {
		if f.send("POST", "/upload?name="+strings.Repeat("n", maxName), strings.NewReader(""), nil).Code == http.StatusAccepted {
			accepted++
		}
	}
	if accepted > most {
		t.Errorf("got %d of %d empty files accepted, want at most %d", accepted, tries, most)
	}
}

// TestAuditNames checks data D4: the name of a file is visible, and a name that is too long keeps its extension.
func TestAuditNames(t *testing.T) {
	for _, name := range []string{"\u200b", "\u2060\ufeff", "\u00ad", "\U000e0041", "\u3164", "\ufff9"} {
		got := safeName(name)
		if !strings.ContainsFunc(got, func(r rune) bool { return unicode.IsGraphic(r) && !unicode.Is(unicode.Cf, r) && r != '\u3164' }) {
			t.Errorf("%+q: got %+q, want a visible name", name, got)
		}
	}
	if got := safeName(strings.Repeat("a", 260) + ".pdf"); !strings.HasSuffix(got, ".pdf") {
		t.Errorf("a name of 264 bytes: got %q, want one that ends with .pdf", got)
	}
}
