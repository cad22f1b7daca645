//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

var asJSON = map[string]string{"Content-Type": "application/json"}

// decode reads an answer that must have a status.
func (a answer) decode(t *testing.T, status int, into any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %s, want status %d", a, status)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
}

// newUser creates a user, who is deleted at the end of the test, and returns the ID.
func (s *system) newUser(t *testing.T, username, password string) string {
	t.Helper()
	var user struct{ ID string }
	s.createUser(t, username, password).decode(t, http.StatusCreated, &user)
	t.Cleanup(func() {
		if got := s.call(t, http.MethodDelete, "accounts", "/accounts/"+user.ID, s.signedIn(t), nil, nil); got.status != http.StatusNoContent {
			t.Errorf("delete: %s", got)
		}
	})
	return user.ID
}

// createUser sends the request that creates a user.
func (s *system) createUser(t *testing.T, username, password string) answer {
	t.Helper()
	body, err := json.Marshal(map[string]string{"username": username, "password": password, "role": "user"})
	if err != nil {
		t.Fatal(err)
	}
	return s.call(t, http.MethodPost, "accounts", "/accounts", s.signedIn(t), asJSON, body)
}

// An admin creates a user. The user signs in, refreshes the session, sees only their own files, and loses access when disabled.
func TestAccountsAndSessions(t *testing.T) {
	s := open(t)
	username, password := fmt.Sprintf("e2e-%d", time.Now().UnixNano()), "analytical-engine"
	id := s.newUser(t, username, password)
	if got := s.createUser(t, username, password); got.status != http.StatusConflict {
		t.Errorf("the same name again: %s, want 409", got)
	}

	type session struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		Scope        string
	}
	var first, second session
	s.login(t, username, password).decode(t, http.StatusOK, &first)
	refresh := func(token string) answer {
		return s.call(t, http.MethodPost, "login", "/refresh", "", asJSON, []byte(`{"refresh_token":"`+token+`"}`))
	}
	refresh(first.RefreshToken).decode(t, http.StatusOK, &second)
	if second.Scope != "files:read files:write" || second.RefreshToken == first.RefreshToken {
		t.Errorf("refreshed: got scope %q, and another token is %t", second.Scope, second.RefreshToken != first.RefreshToken)
	}
	if got := s.call(t, http.MethodGet, "accounts", "/accounts", second.AccessToken, nil, nil); got.status != http.StatusForbidden {
		t.Errorf("a user lists the accounts: %s, want 403", got)
	}

	// The admin's file is not there for the user, and the reverse is.
	f := newFile("mine.txt", 10)
	s.upload(t, f)
	if got := s.call(t, http.MethodGet, "files", "/files/"+f.id+"/content", second.AccessToken, nil, nil); got.status != http.StatusNotFound {
		t.Errorf("somebody else's file: %s, want 404", got)
	}

	patch := func(change string) {
		t.Helper()
		if got := s.call(t, http.MethodPatch, "accounts", "/accounts/"+id, s.signedIn(t), asJSON, []byte(change)); got.status != http.StatusOK {
			t.Fatalf("%s: %s", change, got)
		}
	}
	patch(`{"disabled":true}`)
	if got := refresh(second.RefreshToken); got.status != http.StatusUnauthorized || got.problem() != "session-ended" {
		t.Errorf("a disabled user refreshes: %s, want 401", got)
	}
	if got := s.login(t, username, password); got.status != http.StatusUnauthorized {
		t.Errorf("a disabled user signs in: %s, want 401", got)
	}
	if got := s.call(t, http.MethodGet, "accounts", "/accounts/me", second.AccessToken, nil, nil); got.status != http.StatusUnauthorized {
		t.Errorf("a disabled user's token: %s, want 401", got)
	}
	patch(`{"disabled":false}`)
	var third session
	s.login(t, username, password).decode(t, http.StatusOK, &third)
	if got := s.call(t, http.MethodPost, "login", "/logout?scope=all", "", asJSON, []byte(`{"refresh_token":"`+third.RefreshToken+`"}`)); got.status != http.StatusNoContent {
		t.Errorf("logout: %s, want 204", got)
	}
	if got := refresh(third.RefreshToken); got.status != http.StatusUnauthorized {
		t.Errorf("refresh after logout: %s, want 401", got)
	}

	var trail struct {
		Entries []struct {
			Action  string
			Account struct{ ID string }
			Address string
		}
	}
	s.call(t, http.MethodGet, "accounts", "/accounts/audit?limit=20", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &trail)
	seen := map[string]bool{}
	for _, entry := range trail.Entries {
		if entry.Account.ID == id {
			seen[entry.Action] = true
			if entry.Address == "" {
				t.Errorf("%s is on record without an address", entry.Action)
			}
		}
	}
	for _, action := range []string{"user.created", "user.disabled", "user.enabled", "sessions.ended"} {
		if !seen[action] {
			t.Errorf("the audit trail does not have %s: %v", action, seen)
		}
	}
}

// Guesses at a password are slowed down, whichever pod they come to.
func TestLockout(t *testing.T) {
	s := open(t)
	username := fmt.Sprintf("nobody-%d", time.Now().UnixNano())
	for guess := range 5 {
		if got := s.login(t, username, fmt.Sprintf("wrong-guess-%d", guess)); got.status != http.StatusUnauthorized {
			t.Fatalf("guess %d: %s, want 401", guess, got)
		}
	}
	got := s.login(t, username, "wrong-guess-6")
	if got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") == "" || got.problem() != "too-many-attempts" {
		t.Errorf("the sixth guess: %s with Retry-After %q, want 429 with one", got, got.header.Get("Retry-After"))
	}
}
