//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// requestLimit bounds one request, the start of a pod included.
const requestLimit = 2 * time.Minute

// clusterSuffix ends the URLs of functions that are reachable inside of the cluster only.
const clusterSuffix = ".svc.cluster.local"

// system is the deployed system as one user sees it.
type system struct {
	urls     map[string]string
	username string
	password string
	token    string
	issued   time.Time
}

// open finds the functions, and the first admin's password in its Secret. Where only the gateway is public (EXPOSE=gateway),
// it is called in place of the others: they answer at the same paths.
func open(t *testing.T) *system {
	t.Helper()
	s := &system{urls: map[string]string{}}
	for name, service := range services(t) {
		s.urls[name] = service.Status.URL
	}
	for name, url := range s.urls {
		if strings.HasSuffix(url, clusterSuffix) && name != "record" && name != "sweep" {
			s.urls[name] = s.urls["gateway"]
		}
	}
	for _, name := range []string{"login", "validate", "upload", "record", "files", "accounts", "sweep", "gateway"} {
		if s.urls[name] == "" {
			t.Fatalf("the function %s is not deployed, or has no URL", name)
		}
	}
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	get(t, &secret, "secret", "first-admin")
	s.username, s.password = string(secret.Data["username"]), string(secret.Data["password"])
	return s
}

// throughGateway returns the same system, with all functions called at the gateway's URL.
func (s *system) throughGateway() *system {
	through := &system{urls: map[string]string{}, username: s.username, password: s.password}
	for name := range s.urls {
		through.urls[name] = s.urls["gateway"]
	}
	return through
}

// answer is an HTTP answer with its body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s", a.status, a.header.Get("Content-Type"), bytes.TrimSpace(a.body[:min(len(a.body), 500)]))
}

// problem returns the name of the problem document that the answer is, and "" if it is none.
func (a answer) problem() string {
	var document struct {
		Type   string `json:"type"`
		Status int    `json:"status"`
	}
	if a.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(a.body, &document) != nil || document.Status != a.status {
		return ""
	}
	return strings.TrimPrefix(document.Type, "urn:strongroom:problem:")
}

// call sends one request to a function. A token of "" sends none.
func (s *system) call(t *testing.T, method, function, path, token string, header map[string]string, body []byte) answer {
	t.Helper()
	got, err := s.send(method, function, path, token, header, body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// send is call for any goroutine.
func (s *system) send(method, function, path, token string, header map[string]string, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.urls[function]+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s%s: %w", method, function, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s%s: read the answer: %w", method, function, path, err)
	}
	return answer{response.StatusCode, response.Header, content}, nil
}

// login tries a user name and a password.
func (s *system) login(t *testing.T, username, password string) answer {
	t.Helper()
	body, err := json.Marshal(map[string]string{"username": username, "password": password})
	if err != nil {
		t.Fatal(err)
	}
	return s.call(t, http.MethodPost, "login", "/login", "", map[string]string{"Content-Type": "application/json"}, body)
}

// signedIn returns an access token of the first admin that is good for some minutes yet.
func (s *system) signedIn(t *testing.T) string {
	t.Helper()
	if s.token != "" && time.Since(s.issued) < 5*time.Minute {
		return s.token
	}
	got := s.login(t, s.username, s.password)
	var document struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal(got.body, &document); got.status != http.StatusOK || err != nil || document.AccessToken == "" || document.TokenType != "Bearer" {
		t.Fatalf("login: %s", redact(got, document.AccessToken))
	}
	if document.ExpiresIn < 600 {
		t.Fatalf("a token is good for %d s, which is too short for these tests", document.ExpiresIn)
	}
	s.token, s.issued = document.AccessToken, time.Now()
	return s.token
}

// redact keeps a token out of the test's output.
func redact(a answer, token string) string {
	if token == "" {
		return a.String()
	}
	return strings.ReplaceAll(a.String(), token, "…")
}

// file is a file that was handed in, or is to be.
type file struct {
	id      string
	name    string
	content []byte
}

func newFile(name string, size int) *file {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	return &file{name: name, content: content}
}

func (f *file) sha256() string {
	sum := sha256.Sum256(f.content)
	return hex.EncodeToString(sum[:])
}

// tryUpload sends a file once.
func (s *system) tryUpload(t *testing.T, f *file) answer {
	t.Helper()
	sum := sha256.Sum256(f.content)
	return s.call(t, http.MethodPost, "upload", "/upload", s.signedIn(t), map[string]string{
		"Content-Type":        "application/octet-stream",
		"Content-Disposition": fmt.Sprintf("attachment; filename=%q", f.name),
		"Content-Digest":      "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
	}, f.content)
}

// upload hands in a file as a sensible client does: it comes again when it is told to.
func (s *system) upload(t *testing.T, f *file) {
	t.Helper()
	deadline := time.Now().Add(4 * time.Minute)
	for {
		got := s.tryUpload(t, f)
		if got.status == http.StatusServiceUnavailable && time.Now().Before(deadline) {
			time.Sleep(retryAfter(t, got))
			continue
		}
		var stored struct {
			ID     string `json:"id"`
			Name   string `json:"name"`
			Size   int64  `json:"size"`
			SHA256 string `json:"sha256"`
			Status string `json:"status"`
		}
		if err := json.Unmarshal(got.body, &stored); got.status != http.StatusAccepted || err != nil {
			t.Fatalf("upload of %s: %s", f.name, got)
		}
		if stored.Name != f.name || stored.Size != int64(len(f.content)) || stored.SHA256 != f.sha256() || stored.Status != "stored" {
			t.Fatalf("upload of %s: %s", f.name, got)
		}
		if location := got.header.Get("Location"); location != "/files/"+stored.ID {
			t.Fatalf("upload of %s: Location is %q", f.name, location)
		}
		f.id = stored.ID
		return
	}
}

// retryAfter returns how long a 503 tells the client to wait, and fails if it does not.
func retryAfter(t *testing.T, got answer) time.Duration {
	t.Helper()
	seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
	if err != nil || seconds < 1 || seconds > 60 || got.problem() != "unavailable" {
		t.Fatalf("Retry-After %q with %s", got.header.Get("Retry-After"), got)
	}
	return time.Duration(seconds) * time.Second
}

// status returns what the catalogue says of a file: stored, or catalogued.
func (s *system) status(t *testing.T, f *file) string {
	t.Helper()
	got := s.call(t, http.MethodGet, "files", "/files/"+f.id, s.signedIn(t), nil, nil)
	var entry struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
		Status string `json:"status"`
	}
	if err := json.Unmarshal(got.body, &entry); got.status != http.StatusOK || err != nil {
		t.Fatalf("GET /files/%s: %s", f.id, got)
	}
	if entry.ID != f.id || entry.Name != f.name || entry.Size != int64(len(f.content)) || entry.SHA256 != f.sha256() {
		t.Fatalf("GET /files/%s: %s", f.id, got)
	}
	return entry.Status
}

// catalogued waits until record has written the entry of a file.
func (s *system) catalogued(t *testing.T, f *file, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() string {
		if status := s.status(t, f); status != "catalogued" {
			return fmt.Sprintf("%s (%s) is %s, not catalogued", f.name, f.id, status)
		}
		return ""
	})
}

// download fetches a file and compares it with what was handed in.
func (s *system) download(t *testing.T, f *file) {
	t.Helper()
	got := s.call(t, http.MethodGet, "files", "/files/"+f.id+"/content", s.signedIn(t), nil, nil)
	if got.status != http.StatusOK {
		t.Fatalf("GET /files/%s/content: %s", f.id, got)
	}
	if sum := sha256.Sum256(got.body); hex.EncodeToString(sum[:]) != f.sha256() {
		t.Fatalf("%s came back with %d bytes of another SHA-256, want %d bytes of %s", f.name, len(got.body), len(f.content), f.sha256())
	}
}
