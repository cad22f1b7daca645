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

// requestLimit bounds one request. It includes the time for the start of a pod.
const requestLimit = 2 * time.Minute

// clusterSuffix is the suffix of the URLs of functions that are reachable only inside the cluster.
const clusterSuffix = ".svc.cluster.local"

// system is a client of the deployed system. It signs in as one user.
type system struct {
	client   *http.Client
	urls     map[string]string
	username string
	password string
	token    string
	issued   time.Time
}

// open returns a client that uses the URLs of the deployed functions and signs in as the first admin. If only the
// gateway is public (EXPOSE=gateway), the client uses the gateway in place of the other functions, because the gateway
// has the same paths.
func open(t *testing.T) *system {
	t.Helper()
	s := &system{client: http.DefaultClient, urls: map[string]string{}}
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
			t.Fatalf("the function %s is not deployed or has no URL", name)
		}
	}
	var secret struct {
		Metadata struct{ Annotations map[string]string }
		Data     map[string][]byte
	}
	get(t, &secret, "secret", "first-admin")
	s.username, s.password = string(secret.Data["username"]), string(secret.Data["password"])
	if secret.Metadata.Annotations[passwordChanged] == "" && s.login(t, s.username, s.password).problem() == "password-change-required" {
		initial := s.password
		s.password = rand.Text()
		s.renew(t, s.username, initial, s.password)
		storePassword(t, s.password)
	}
	return s
}

// passwordChanged is an annotation of the Secret first-admin, after a test has changed the password of the first admin.
const passwordChanged = "strongroom.dev/changed-by-e2e"

// storePassword stores the new password of the first admin in the Secret first-admin, so that later tests can sign in.
func storePassword(t *testing.T, password string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{
		"metadata":   map[string]any{"annotations": map[string]string{passwordChanged: "true"}},
		"stringData": map[string]string{"password": password},
	})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "secret", "first-admin", "--patch", string(patch))
}

// throughGateway returns a client of the same system that sends all requests to the gateway.
func (s *system) throughGateway() *system { return s.at(s.urls["gateway"]) }

// at returns a client of the same system that sends all requests to the gateway at the given URL.
func (s *system) at(base string) *system {
	other := &system{client: s.client, urls: map[string]string{}, username: s.username, password: s.password}
	for name := range s.urls {
		other.urls[name] = base
	}
	return other
}

// answer is an HTTP response with its body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s", a.status, a.header.Get("Content-Type"), bytes.TrimSpace(a.body[:min(len(a.body), 500)]))
}

// problem returns the problem name if the response is a problem document, and "" otherwise.
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

// call sends a request to a function and returns the response. An empty token omits the Authorization header.
func (s *system) call(t *testing.T, method, function, path, token string, header map[string]string, body []byte) answer {
	t.Helper()
	got, err := s.send(method, function, path, token, header, body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// send is like call, but it returns an error instead of failing the test. It can therefore run in any goroutine.
func (s *system) send(method, function, path, token string, header map[string]string, body []byte) (answer, error) {
	return s.stream(method, function, path, token, header, bytes.NewReader(body), int64(len(body)))
}

// stream is like send, but it reads the request body, which has size bytes, from a stream.
func (s *system) stream(method, function, path, token string, header map[string]string, body io.Reader, size int64) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.urls[function]+path, body)
	if err != nil {
		return answer{}, err
	}
	request.ContentLength = size
	for name, value := range header {
		request.Header.Set(name, value)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s%s: %w", method, function, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s%s: read the response: %w", method, function, path, err)
	}
	return answer{response.StatusCode, response.Header, content}, nil
}

// login signs in with a user name and a password and returns the response.
func (s *system) login(t *testing.T, username, password string) answer {
	t.Helper()
	return s.signIn(t, map[string]string{"username": username, "password": password})
}

// renew signs in with a user name and a password, and replaces the password with a new password.
func (s *system) renew(t *testing.T, username, password, newPassword string) {
	t.Helper()
	got := s.signIn(t, map[string]string{"username": username, "password": password, "new_password": newPassword})
	if got.status != http.StatusOK {
		t.Fatalf("sign in with a new password: got %s, want 200", got)
	}
}

// signIn sends a sign-in request with the given members and returns the response.
func (s *system) signIn(t *testing.T, members map[string]string) answer {
	t.Helper()
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return s.call(t, http.MethodPost, "login", "/login", "", map[string]string{"Content-Type": "application/json"}, body)
}

// signedIn returns an access token of the client's user that is valid for at least 5 more minutes. It signs in if
// necessary.
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
		t.Fatalf("login: got %s, want 200 with a bearer token", redact(got, document.AccessToken))
	}
	if document.ExpiresIn < 600 {
		t.Fatalf("got an access token that is valid for %d s, want at least 600 s for these tests", document.ExpiresIn)
	}
	s.token, s.issued = document.AccessToken, time.Now()
	return s.token
}

// redact returns a description of a response in which the token is replaced, so that the test output does not contain
// it.
func redact(a answer, token string) string {
	if token == "" {
		return a.String()
	}
	return strings.ReplaceAll(a.String(), token, "…")
}

// file is a file to upload. It has an ID after the upload.
type file struct {
	id      string
	name    string
	content []byte
}

// newFile returns a file with size random bytes.
func newFile(name string, size int) *file {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never returns an error
	return &file{name: name, content: content}
}

func (f *file) sha256() string {
	sum := sha256.Sum256(f.content)
	return hex.EncodeToString(sum[:])
}

// tryUpload sends one upload request and returns the response.
func (s *system) tryUpload(t *testing.T, f *file) answer {
	t.Helper()
	sum := sha256.Sum256(f.content)
	return s.call(t, http.MethodPost, "upload", "/upload", s.signedIn(t), map[string]string{
		"Content-Type":        "application/octet-stream",
		"Content-Disposition": fmt.Sprintf("attachment; filename=%q", f.name),
		"Content-Digest":      "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
	}, f.content)
}

// upload uploads a file. After a 503, it waits for the time in Retry-After and tries again.
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
			t.Fatalf("upload %s: got %s, want 202", f.name, got)
		}
		if stored.Name != f.name || stored.Size != int64(len(f.content)) || stored.SHA256 != f.sha256() || stored.Status != "stored" {
			t.Fatalf("upload %s: got %s, want the uploaded file", f.name, got)
		}
		if location := got.header.Get("Location"); location != "/files/"+stored.ID {
			t.Fatalf("upload %s: got Location %q, want /files/%s", f.name, location, stored.ID)
		}
		f.id = stored.ID
		return
	}
}

// retryAfter returns the time in the Retry-After header of a 503 response. The test fails if the response is not the
// problem "unavailable" with a valid Retry-After header.
func retryAfter(t *testing.T, got answer) time.Duration {
	t.Helper()
	seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
	if err != nil || seconds < 1 || seconds > 60 || got.problem() != "unavailable" {
		t.Fatalf("got Retry-After %q with %s, want 1 to 60 s with the problem unavailable", got.header.Get("Retry-After"), got)
	}
	return time.Duration(seconds) * time.Second
}

// status returns the status of a file, which is "stored" or "catalogued".
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
		t.Fatalf("GET /files/%s: got %s, want 200", f.id, got)
	}
	if entry.ID != f.id || entry.Name != f.name || entry.Size != int64(len(f.content)) || entry.SHA256 != f.sha256() {
		t.Fatalf("GET /files/%s: got %s, want the uploaded file", f.id, got)
	}
	return entry.Status
}

// catalogued waits until record has added the catalog entry of a file.
func (s *system) catalogued(t *testing.T, f *file, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() string {
		if status := s.status(t, f); status != "catalogued" {
			return fmt.Sprintf("file %s (%s): got status %s, want catalogued", f.name, f.id, status)
		}
		return ""
	})
}

// download downloads a file and compares its content with the uploaded content.
func (s *system) download(t *testing.T, f *file) {
	t.Helper()
	got := s.call(t, http.MethodGet, "files", "/files/"+f.id+"/content", s.signedIn(t), nil, nil)
	if got.status != http.StatusOK {
		t.Fatalf("GET /files/%s/content: got %s, want 200", f.id, got)
	}
	if sum := sha256.Sum256(got.body); hex.EncodeToString(sum[:]) != f.sha256() {
		t.Fatalf("download %s: got %d bytes with the digest %x, want %d with %s", f.name, len(got.body), sum, len(f.content), f.sha256())
	}
}
