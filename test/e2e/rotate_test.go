//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// rotateKeys runs a step of deploy/rotate-keys, for at most 15 minutes. The script builds an image and waits
// until the old pods have ended.
func rotateKeys(t *testing.T, step string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(root, "deploy/rotate-keys"), step)
	// No waiting times are necessary. No other verifier caches the key set, and the load uses no tokens of the old key
	// after the step "sign".
	command.Env = append(os.Environ(), "SIGN_AFTER=0", "RETIRE_AFTER=0")
	output, err := command.CombinedOutput()
	t.Logf("rotate-keys %s:\n%s", step, output)
	if err != nil {
		t.Fatalf("rotate-keys %s: %v", step, err)
	}
}

// keyID returns the ID of the key that signed a token.
func keyID(t *testing.T, raw string) string {
	t.Helper()
	encoded, _, _ := strings.Cut(raw, ".")
	var header struct {
		ID string `json:"kid"`
	}
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || json.Unmarshal(data, &header) != nil || header.ID == "" {
		t.Fatal("the header of the access token has no kid")
	}
	return header.ID
}

// published returns the IDs of the keys that validate publishes.
func published(t *testing.T, s *system) []string {
	t.Helper()
	got := s.call(t, http.MethodGet, "validate", "/.well-known/jwks.json", "", nil, nil)
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(got.body, &set); got.status != http.StatusOK || err != nil {
		t.Fatalf("get the key set: got %s, want 200", got)
	}
	var ids []string
	for _, key := range set.Keys {
		ids = append(ids, key.ID)
	}
	return ids
}

// load signs in and uses access tokens continuously, like many concurrent users.
type load struct {
	s    *system
	stop chan struct{}
	wait sync.WaitGroup

	sync.Mutex
	tokens   []string       // the tokens that must be valid: the first token and the newest token
	answers  map[string]int // the number of responses, by function and status
	failures []string
}

// startLoad starts the load. The token first must be valid until the load ends.
func startLoad(t *testing.T, s *system, first string) *load {
	l := &load{s: s, stop: make(chan struct{}), tokens: []string{first}, answers: map[string]int{}}
	l.every(time.Second, l.login)
	for function, path := range map[string]string{"validate": "/validate?scope=files:read", "files": "/files?limit=1"} {
		l.every(300*time.Millisecond, func() {
			for _, token := range l.good() {
				l.send(http.MethodGet, function, path, token, nil)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// every calls do in a goroutine until the load ends, with an interval of pause between the calls.
func (l *load) every(pause time.Duration, do func()) {
	l.wait.Add(1)
	go func() {
		defer l.wait.Done()
		for {
			do()
			select {
			case <-l.stop:
				return
			case <-time.After(pause):
			}
		}
	}()
}

// login signs in and replaces the newest token.
func (l *load) login() {
	body, err := json.Marshal(map[string]string{"username": l.s.username, "password": l.s.password})
	if err != nil {
		return // cannot happen with a map of strings
	}
	var document struct {
		AccessToken string `json:"access_token"`
	}
	if answer := l.send(http.MethodPost, "login", "/login", "", body); json.Unmarshal(answer, &document) == nil && document.AccessToken != "" {
		l.Lock()
		l.tokens = append(l.tokens[:min(1, len(l.tokens))], document.AccessToken)
		l.Unlock()
	}
}

// good returns the tokens that must be valid.
func (l *load) good() []string {
	l.Lock()
	defer l.Unlock()
	return append([]string(nil), l.tokens...)
}

// send sends one request and returns the response body. Any other status than 200 is a failure.
func (l *load) send(method, function, path, token string, body []byte) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, l.s.urls[function]+path, bytes.NewReader(body))
	if err != nil {
		l.fail("%s: %v", function, err)
		return nil
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		l.fail("%s: %v", function, err)
		return nil
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	l.Lock()
	l.answers[fmt.Sprintf("%s %d", function, response.StatusCode)]++
	l.Unlock()
	switch {
	case err != nil:
		l.fail("%s: read the response: %v", function, err)
	case response.StatusCode != http.StatusOK:
		l.fail("%s: got %s, want 200", function, answer{response.StatusCode, response.Header, content})
	}
	return content
}

// fail records a failure with the current time.
func (l *load) fail(format string, args ...any) {
	l.Lock()
	defer l.Unlock()
	l.failures = append(l.failures, time.Now().UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// end stops the load and returns after the last response.
func (l *load) end() {
	l.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.Unlock()
	l.wait.Wait()
}

// check fails the test if requests have failed since the last check, or if no request to a function has succeeded. when
// is the step of the rotation.
func (l *load) check(t *testing.T, when string) {
	t.Helper()
	l.Lock()
	defer l.Unlock()
	t.Logf("%s: responses by function and status: %v", when, l.answers)
	for _, function := range []string{"login", "validate", "files"} {
		if l.answers[function+" 200"] == 0 {
			t.Errorf("%s: got no successful request to %s, want at least 1", when, function)
		}
	}
	for i, failure := range l.failures {
		if i == 10 {
			t.Errorf("%s: %d more failures", when, len(l.failures)-i)
			break
		}
		t.Errorf("%s: %s", when, failure)
	}
	l.answers, l.failures = map[string]int{}, nil
}

// TestKeyRotationUnderLoad proves that the signing key can be replaced while users sign in and use their tokens,
// without a failed request. After the rotation, tokens of the old key are refused.
func TestKeyRotationUnderLoad(t *testing.T) {
	s := open(t)
	oldToken := s.signedIn(t)
	oldKey := keyID(t, oldToken)
	if got := published(t, s); len(got) != 1 || got[0] != oldKey {
		t.Fatalf("a key rotation is in progress: got the published keys %v and the signing key %s, want only one key", got, oldKey)
	}
	l := startLoad(t, s, oldToken)

	rotateKeys(t, "add")
	l.check(t, "add")
	added := published(t, s)
	if len(added) != 2 || added[0] != oldKey {
		t.Fatalf("published keys after add: got %v, want %s and a new key", added, oldKey)
	}
	newKey := added[1]
	rotateKeys(t, "add")
	if got := published(t, s); strings.Join(got, " ") != strings.Join(added, " ") {
		t.Errorf("published keys after a second add: got %v, want %v", got, added)
	}

	rotateKeys(t, "sign")
	l.end() // the old token must be valid until this point
	l.check(t, "sign")
	s.token = ""
	newToken := s.signedIn(t)
	if got := keyID(t, newToken); got != newKey {
		t.Errorf("signing key after sign: got %s, want %s", got, newKey)
	}

	l = startLoad(t, s, newToken)
	rotateKeys(t, "retire")
	l.end()
	l.check(t, "retire")
	if got := published(t, s); len(got) != 1 || got[0] != newKey {
		t.Errorf("published keys after retire: got %v, want only %s", got, newKey)
	}
	for function, path := range map[string]string{"validate": "/validate", "files": "/files"} {
		got := s.call(t, http.MethodGet, function, path, oldToken, nil, nil)
		if challenge := got.header.Get("WWW-Authenticate"); got.status != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) {
			t.Errorf("%s with a token of the retired key: got %s with the challenge %q, want 401 with invalid_token", function, got, challenge)
		}
		if got := s.call(t, http.MethodGet, function, path, newToken, nil, nil); got.status != http.StatusOK {
			t.Errorf("%s with a token of the new key: got %s, want 200", function, got)
		}
	}
}
