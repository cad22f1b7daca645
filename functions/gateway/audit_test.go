//go:build audit

package main

import (
	"net/http"
	"strings"
	"testing"
)

// TestAuditCrossSiteSignIn checks security S14: a page of another site cannot make its visitors' browsers send requests
// to login.
func TestAuditCrossSiteSignIn(t *testing.T) {
	for _, path := range []string{"/login", "/refresh", "/logout"} {
		f := newFixture(t, nil)
		got := do(t, f.request(t, http.MethodPost, path, strings.NewReader("username=admin&password=guess"),
			"Content-Type", "application/x-www-form-urlencoded", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"))
		if f.calls() != 0 {
			t.Errorf("%s: got status %d and %d calls of login, want none", path, got.status, f.calls())
		}
	}
}
