//go:build audit

package main

import (
	"net/http"
	"testing"
)

// TestAuditStolenAdminToken checks security S7: an admin's access token alone can neither replace a password nor create an admin, because both outlive the token.
func TestAuditStolenAdminToken(t *testing.T) {
	for name, c := range map[string]struct{ method, target, body string }{
		"replace the admin's own password": {method: http.MethodPatch, target: "/accounts/" + graceID, body: `{"password":"mallory-1234"}`},
		"create another admin":             {method: http.MethodPost, target: "/accounts", body: `{"username":"mallory","password":"mallory-1234","role":"admin"}`},
	} {
		f := newFixture(t)
		if w := f.send(f.request("grace", c.method, c.target, c.body)); w.Code/100 == 2 {
			t.Errorf("%s: got status %d, want a refusal", name, w.Code)
		}
	}
}
