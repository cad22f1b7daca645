//go:build audit

package main

import (
	"strings"
	"testing"
	"unicode"
)

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
