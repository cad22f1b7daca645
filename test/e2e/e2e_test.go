//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMainJob proves that a user can sign in, upload a file, find it in the list of files and download it.
func TestMainJob(t *testing.T) {
	s := open(t)
	t.Run("validate", func(t *testing.T) {
		got := s.call(t, http.MethodGet, "validate", "/validate?scope=files:write", s.signedIn(t), nil, nil)
		if got.status != http.StatusOK {
			t.Fatalf("validate: got %s, want 200", got)
		}
		if user, id := got.header.Get("X-Auth-Username"), got.header.Get("X-Auth-User-Id"); user != s.username || id == "" {
			t.Errorf("validate: got the user %q with the ID %q, want %q with an ID", user, id, s.username)
		}
		if roles := got.header.Get("X-Auth-Roles"); !strings.Contains(roles, "admin") {
			t.Errorf("validate: got the roles %q, want admin", roles)
		}
	})
	for name, size := range map[string]int{"twenty megabytes.bin": 20 << 20, "one byte.bin": 1} {
		t.Run(name, func(t *testing.T) {
			f := newFile(name, size)
			s.upload(t, f)
			s.catalogued(t, f, 2*time.Minute)
			s.download(t, f)
			got := s.call(t, http.MethodGet, "files", "/files?limit=20", s.signedIn(t), nil, nil)
			var page struct {
				Files []struct {
					ID string `json:"id"`
				} `json:"files"`
			}
			if err := json.Unmarshal(got.body, &page); got.status != http.StatusOK || err != nil {
				t.Fatalf("GET /files: got %s, want 200", got)
			}
			if !slices.ContainsFunc(page.Files, func(entry struct {
				ID string `json:"id"`
			}) bool {
				return entry.ID == f.id
			}) {
				t.Errorf("GET /files: got no entry of file %s in the newest 20 entries", f.id)
			}
		})
	}
}

// TestRefusals proves that wrong credentials and invalid access tokens are refused with 401.
func TestRefusals(t *testing.T) {
	s := open(t)
	for name, username := range map[string]string{"wrong password": s.username, "unknown user": "nobody-of-this-name"} {
		t.Run(name, func(t *testing.T) {
			got := s.login(t, username, "a wrong password")
			if got.status != http.StatusUnauthorized || got.problem() != "bad-credentials" {
				t.Errorf("login: got %s, want 401 bad-credentials", got)
			}
		})
	}
	header, rest, _ := strings.Cut(s.signedIn(t), ".")
	claims, signature, _ := strings.Cut(rest, ".")
	flipped := byte('A')
	if signature[0] == 'A' {
		flipped = 'B'
	}
	for name, tc := range map[string]struct {
		token     string
		challenge string
	}{
		"no token":           {"", "Bearer"},
		"tampered signature": {header + "." + claims + "." + string(flipped) + signature[1:], `error="invalid_token"`},
		"no signature":       {header + "." + claims + ".", `error="invalid_token"`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, request := range []struct{ method, function, path string }{
				{http.MethodGet, "validate", "/validate"},
				{http.MethodPost, "upload", "/upload?name=x"},
				{http.MethodGet, "files", "/files"},
			} {
				got := s.call(t, request.method, request.function, request.path, tc.token, nil, nil)
				challenge := got.header.Get("WWW-Authenticate")
				if got.status != http.StatusUnauthorized || got.problem() != "unauthenticated" || !strings.Contains(challenge, tc.challenge) {
					t.Errorf("%s %s: got %s with the challenge %q, want 401 unauthenticated with %s",
						request.method, request.path, got, challenge, tc.challenge)
				}
				if tc.token == "" && strings.Contains(challenge, "error=") {
					t.Errorf("%s %s without a token: got the challenge %q, want no error attribute", request.method, request.path, challenge)
				}
			}
		})
	}
}

// TestKnDescribesEachFunctionAsReady proves that the Service of each function is ready in the output of `kn service
// describe`.
func TestKnDescribesEachFunctionAsReady(t *testing.T) {
	for name := range services(t) {
		output := run(t, "kn", "service", "describe", name, "--namespace", namespace)
		if !strings.Contains(output, "++ Ready") {
			t.Errorf("kn service describe %s: got no line with \"++ Ready\":\n%s", name, output)
		}
	}
}

// asleep waits until all functions are scaled to zero, except the gateway, which is never scaled to zero.
func asleep(t *testing.T) {
	t.Helper()
	eventually(t, 6*time.Minute, func() string {
		left := pods(t)
		maps.DeleteFunc(left, func(pod string, _ int) bool { return strings.HasPrefix(pod, "gateway-") })
		if len(left) > 0 {
			return fmt.Sprintf("got the running pods %v, want none", slices.Sorted(maps.Keys(left)))
		}
		return ""
	})
}

// TestScalesToZeroAndBack proves that the functions are scaled to zero when they are idle, and that the first request
// to each of them then succeeds.
func TestScalesToZeroAndBack(t *testing.T) {
	s := open(t)
	s.signedIn(t)
	asleep(t)
	// No function is running when it receives its first request. The first request to record is the event.
	token := s.token
	if got := s.call(t, http.MethodGet, "validate", "/validate", token, nil, nil); got.status != http.StatusOK {
		t.Errorf("first request to validate: got %s, want 200", got)
	}
	if got := s.call(t, http.MethodGet, "files", "/files", token, nil, nil); got.status != http.StatusOK {
		t.Errorf("first request to files: got %s, want 200", got)
	}
	f := newFile("from zero.txt", 1<<10)
	s.upload(t, f)
	s.catalogued(t, f, 2*time.Minute)
	s.token = ""
	s.signedIn(t)
}
