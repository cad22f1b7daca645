//go:build audit

package password

import (
	"testing"
	"unicode/utf8"
)

// TestAuditWeakPasswords checks security S9: a password that is short in characters, or that is on lists of common passwords, cannot be chosen.
func TestAuditWeakPasswords(t *testing.T) {
	for _, weak := range []string{"password", "12345678", "qwertyui", "        ", "🔑🔑", "€€€", "aaaaaaaa", "admin123", "strongroom"} {
		if err := Check(weak); err == nil {
			t.Errorf("%q, %d characters: got no error", weak, utf8.RuneCountInString(weak))
		}
	}
}
