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

// A user signs in, hands in a file, finds it in the catalogue and gets it back.
func TestMainJob(t *testing.T) {
	s := open(t)
	t.Run("validate", func(t *testing.T) {
		got := s.call(t, http.MethodGet, "validate", "/validate?scope=files:write", s.signedIn(t), nil, nil)
		if got.status != http.StatusOK {
			t.Fatalf("validate: %s", got)
		}
		if user, id := got.header.Get("X-Auth-Username"), got.header.Get("X-Auth-User-Id"); user != s.username || id == "" {
			t.Errorf("the token is of %q with id %q, want %q", user, id, s.username)
		}
		if roles := got.header.Get("X-Auth-Roles"); !strings.Contains(roles, "admin") {
			t.Errorf("the first admin's roles are %q", roles)
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
				t.Fatalf("GET /files: %s", got)
			}
			if !slices.ContainsFunc(page.Files, func(entry struct {
				ID string `json:"id"`
			}) bool {
				return entry.ID == f.id
			}) {
				t.Errorf("the newest entries do not have %s", f.id)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := open(t)
	for name, username := range map[string]string{"wrong password": s.username, "unknown user": "nobody-of-this-name"} {
		t.Run(name, func(t *testing.T) {
			got := s.login(t, username, "a wrong password")
			if got.status != http.StatusUnauthorized || got.problem() != "bad-credentials" {
				t.Errorf("login: %s", got)
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
					t.Errorf("%s %s: %s, challenge %q", request.method, request.path, got, challenge)
				}
				if tc.token == "" && strings.Contains(challenge, "error=") {
					t.Errorf("%s %s: a challenge to nobody names an error: %q", request.method, request.path, challenge)
				}
			}
		})
	}
}

func TestKnDescribesEachFunctionAsReady(t *testing.T) {
	for name := range services(t) {
		output := run(t, "kn", "service", "describe", name, "--namespace", namespace)
		if !strings.Contains(output, "++ Ready") {
			t.Errorf("kn service describe %s:\n%s", name, output)
		}
	}
}

// asleep waits until no function runs but the gateway, which stays.
func asleep(t *testing.T) {
	t.Helper()
	eventually(t, 6*time.Minute, func() string {
		left := pods(t)
		maps.DeleteFunc(left, func(pod string, _ int) bool { return strings.HasPrefix(pod, "gateway-") })
		if len(left) > 0 {
			return fmt.Sprintf("these pods still run: %v", slices.Sorted(maps.Keys(left)))
		}
		return ""
	})
}

func TestScalesToZeroAndBack(t *testing.T) {
	s := open(t)
	s.signedIn(t)
	asleep(t)
	// The first request to each function, record's being the event, finds none of them running.
	token := s.token
	if got := s.call(t, http.MethodGet, "validate", "/validate", token, nil, nil); got.status != http.StatusOK {
		t.Errorf("the first request to validate: %s", got)
	}
	if got := s.call(t, http.MethodGet, "files", "/files", token, nil, nil); got.status != http.StatusOK {
		t.Errorf("the first request to files: %s", got)
	}
	f := newFile("from zero.txt", 1<<10)
	s.upload(t, f)
	s.catalogued(t, f, 2*time.Minute)
	s.token = ""
	s.signedIn(t)
}
