//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

var asJSON = map[string]string{"Content-Type": "application/json"}

// decode decodes the JSON body of a response. The test fails if the response does not have the given status.
func (a answer) decode(t *testing.T, status int, into any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %s, want status %d", a, status)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("decode the response %s: %v", a, err)
	}
}

// newUser creates a user and returns the user's ID. The user has chosen the password at the first sign-in. The user is
// deleted when the test ends.
func (s *system) newUser(t *testing.T, username, password string) string {
	t.Helper()
	var user struct{ ID string }
	initial := rand.Text()
	s.createUser(t, username, initial).decode(t, http.StatusCreated, &user)
	t.Cleanup(func() {
		if got := s.call(t, http.MethodDelete, "accounts", "/accounts/"+user.ID, s.signedIn(t), nil, nil); got.status != http.StatusNoContent {
			t.Errorf("delete user %s: got %s, want 204", user.ID, got)
		}
	})
	if got := s.login(t, username, initial); got.problem() != "password-change-required" {
		t.Errorf("sign in with the initial password: got %s, want the problem password-change-required", got)
	}
	s.renew(t, username, initial, password)
	return user.ID
}

// createUser sends a request that creates a user, and returns the response.
func (s *system) createUser(t *testing.T, username, password string) answer {
	t.Helper()
	body, err := json.Marshal(map[string]string{"username": username, "password": password, "role": "user"})
	if err != nil {
		t.Fatal(err)
	}
	return s.call(t, http.MethodPost, "accounts", "/accounts", s.signedIn(t), asJSON, body)
}

// TestAccountsAndSessions proves that an admin can create a user who can then sign in, refresh the session and access
// only their own files. A disabled user loses access. The audit trail records the changes.
func TestAccountsAndSessions(t *testing.T) {
	s := open(t)
	username, password := fmt.Sprintf("e2e-%d", time.Now().UnixNano()), "analytical-engine"
	id := s.newUser(t, username, password)
	if got := s.createUser(t, username, password); got.status != http.StatusConflict {
		t.Errorf("create a user with the same name: got %s, want 409", got)
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
		t.Errorf("refresh: got the scope %q and a new refresh token %t, want files:read files:write and a new refresh token",
			second.Scope, second.RefreshToken != first.RefreshToken)
	}
	if got := s.call(t, http.MethodGet, "accounts", "/accounts", second.AccessToken, nil, nil); got.status != http.StatusForbidden {
		t.Errorf("list the accounts as a user: got %s, want 403", got)
	}

	// The user cannot access a file that belongs to the admin.
	f := newFile("mine.txt", 10)
	s.upload(t, f)
	if got := s.call(t, http.MethodGet, "files", "/files/"+f.id+"/content", second.AccessToken, nil, nil); got.status != http.StatusNotFound {
		t.Errorf("download a file of another user: got %s, want 404", got)
	}

	patch := func(change string) {
		t.Helper()
		if got := s.call(t, http.MethodPatch, "accounts", "/accounts/"+id, s.signedIn(t), asJSON, []byte(change)); got.status != http.StatusOK {
			t.Fatalf("change the account with %s: got %s, want 200", change, got)
		}
	}
	patch(`{"disabled":true}`)
	if got := refresh(second.RefreshToken); got.status != http.StatusUnauthorized || got.problem() != "session-ended" {
		t.Errorf("refresh of a disabled user: got %s, want 401 session-ended", got)
	}
	if got := s.login(t, username, password); got.status != http.StatusUnauthorized {
		t.Errorf("login of a disabled user: got %s, want 401", got)
	}
	if got := s.call(t, http.MethodGet, "accounts", "/accounts/me", second.AccessToken, nil, nil); got.status != http.StatusUnauthorized {
		t.Errorf("GET /accounts/me with the token of a disabled user: got %s, want 401", got)
	}
	patch(`{"disabled":false}`)
	var third session
	s.login(t, username, password).decode(t, http.StatusOK, &third)
	if got := s.call(t, http.MethodPost, "login", "/logout?scope=all", "", asJSON, []byte(`{"refresh_token":"`+third.RefreshToken+`"}`)); got.status != http.StatusNoContent {
		t.Errorf("logout of all sessions: got %s, want 204", got)
	}
	if got := refresh(third.RefreshToken); got.status != http.StatusUnauthorized {
		t.Errorf("refresh after logout: got %s, want 401", got)
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
				t.Errorf("audit entry %s: got no address, want the client address", entry.Action)
			}
		}
	}
	for _, action := range []string{"user.created", "user.disabled", "user.enabled", "sessions.ended"} {
		if !seen[action] {
			t.Errorf("audit trail: got the actions %v, want %s", seen, action)
		}
	}
}

// TestLockout proves that a login must wait after five wrong guesses. All pods of login share the counters.
func TestLockout(t *testing.T) {
	s := open(t)
	username := fmt.Sprintf("nobody-%d", time.Now().UnixNano())
	for guess := range 5 {
		if got := s.login(t, username, fmt.Sprintf("wrong-guess-%d", guess)); got.status != http.StatusUnauthorized {
			t.Fatalf("guess %d: got %s, want 401", guess, got)
		}
	}
	got := s.login(t, username, "wrong-guess-6")
	if got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") == "" || got.problem() != "too-many-attempts" {
		t.Errorf("sixth guess: got %s with Retry-After %q, want 429 too-many-attempts with Retry-After", got, got.header.Get("Retry-After"))
	}
}
