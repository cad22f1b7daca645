//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// keysPath is a path of validate that needs no token without the authorizer.
const keysPath = "/.well-known/jwks.json"

// recipe returns the code block of docs/forward-auth.md whose language and first line are given.
func recipe(t *testing.T, language, first string) string {
	t.Helper()
	block, err := commands.Block(root, "docs/forward-auth.md", language, first+"\n")
	if err != nil {
		t.Fatal(err)
	}
	return block
}

// runRecipe runs the commands in a code block of docs/forward-auth.md in the directory dir, for at most 10 minutes. A
// new pod of the controller can wait until functions are scaled to zero.
func runRecipe(t *testing.T, dir, first string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", recipe(t, "sh", first))
	command.Dir, command.WaitDelay = dir, time.Second // a program that bash has started can keep the pipe open
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("run the commands in docs/forward-auth.md after %q: %v\n%s", first, err, out)
	}
}

// kourierSettings returns the settings in the ConfigMap config-kourier.
func kourierSettings(t *testing.T) map[string]string {
	t.Helper()
	var config struct{ Data map[string]string }
	get(t, &config, "configmap", "config-kourier", "--namespace=knative-serving")
	return config.Data
}

// setKourier changes settings in the ConfigMap config-kourier. It deletes the settings whose value is nil.
func setKourier(t *testing.T, settings map[string]any) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"data": settings})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "configmap", "config-kourier", "--namespace=knative-serving", "--type=merge", "--patch", string(patch))
}

// awaitKeys waits until 20 requests in a row for the public keys get the given status, because Envoy's worker threads
// receive new settings at different times.
func (s *system) awaitKeys(t *testing.T, token string, want int) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		for range 20 {
			if got := s.call(t, http.MethodGet, "validate", keysPath, token, nil, nil); got.status != want {
				return fmt.Sprintf("GET %s: got %s, want %d", keysPath, got, want)
			}
		}
		return ""
	})
}

// TestKourierAuthorizer runs the configuration for Kourier in docs/forward-auth.md, with the commands on that page. It
// proves the statements on that page about Kourier.
func TestKourierAuthorizer(t *testing.T) {
	in := findIngress(t)
	if in.name != "Kourier" {
		t.Skipf("SKIPPED: the ingress is %s; this test needs Kourier", in.name)
	}
	s := open(t)
	// Use a new connection for each request, because Envoy does not change the filters of open connections.
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: requestLimit}
	token := s.signedIn(t) // login is behind the authorizer, too
	dir := t.TempDir()
	for name, content := range map[string]string{
		"validate-direct.yaml": recipe(t, "yaml", "# validate-direct.yaml"),
		"kourier.yaml":         recipe(t, "yaml", "# kourier.yaml"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	original := kourierSettings(t)
	t.Cleanup(func() {
		restored := map[string]any{}
		for name := range kourierSettings(t) {
			restored[name] = nil
		}
		for name, value := range original {
			restored[name] = value
		}
		setKourier(t, restored)
		s.awaitKeys(t, "", http.StatusOK)
	})
	t.Cleanup(func() { runRecipe(t, dir, "# Remove the authorizer.") })
	// The access log shows the headers that Kourier sends to a function.
	setKourier(t, map[string]any{"service-access-log-template": "user ID %REQ(X-AUTH-USER-ID)%, scope %REQ(X-AUTH-SCOPE)%\n"})
	runRecipe(t, dir, "# Add the authorizer.")
	s.awaitKeys(t, "", http.StatusUnauthorized)

	t.Run("tokens", func(t *testing.T) {
		for name, c := range map[string]struct {
			token     string
			status    int
			challenge string
		}{
			"no token":      {"", http.StatusUnauthorized, `Bearer realm="strongroom"`},
			"invalid token": {token + "x", http.StatusUnauthorized, `error="invalid_token"`},
			"valid token":   {token, http.StatusOK, ""},
		} {
			got := s.call(t, http.MethodGet, "validate", keysPath, c.token, nil, nil)
			if challenge := got.header.Get("WWW-Authenticate"); got.status != c.status || !strings.Contains(challenge, c.challenge) {
				t.Errorf("%s: got %s with the challenge %q, want %d with %s", name, got, challenge, c.status, c.challenge)
			}
			if got.status == http.StatusUnauthorized && got.problem() != "unauthenticated" {
				t.Errorf("%s: got %s, want the problem unauthenticated", name, got)
			}
		}
	})
	t.Run("functions of Strongroom", func(t *testing.T) {
		if got := s.login(t, s.username, s.password); got.problem() != "unauthenticated" {
			t.Errorf("login: got status %d and the problem %q, want 401 unauthenticated", got.status, got.problem())
		}
		if got := newNeighbor(t).post(t, "record", nil, ""); got.status != http.StatusUnauthorized {
			t.Errorf("POST to record inside the cluster: got %s, want 401", got)
		}
	})
	t.Run("query string of the client", func(t *testing.T) {
		for _, query := range []string{"scope=no:such-scope", "Scope=", "a=%zz&b;c", "scope=files:read&scope="} {
			// Below /validate/, validate itself ignores the query string, too.
			if got := s.call(t, http.MethodGet, "validate", "/validate/x?"+query, token, nil, nil); got.status != http.StatusOK {
				t.Errorf("query string %s: got %s, want 200", query, got)
			}
		}
	})
	t.Run("large body", func(t *testing.T) {
		f := newFile("authorizer.bin", 20<<20)
		sum := sha256.Sum256(f.content)
		// The upload has one more byte, which the test never sends. Therefore no event is published.
		created := s.call(t, http.MethodPost, "upload", "/upload/tus/", token, map[string]string{
			"Tus-Resumable": "1.0.0", "Upload-Length": fmt.Sprint(len(f.content) + 1), "Content-Type": "application/offset+octet-stream",
			"Upload-Checksum": "sha256 " + base64.StdEncoding.EncodeToString(sum[:]),
		}, f.content)
		if offset := created.header.Get("Upload-Offset"); created.status != http.StatusCreated || offset != fmt.Sprint(len(f.content)) {
			t.Fatalf("upload: got %s with the offset %q, want 201 with %d", created, offset, len(f.content))
		}
		deleted := s.call(t, http.MethodDelete, "upload", created.header.Get("Location"), token, map[string]string{"Tus-Resumable": "1.0.0"}, nil)
		if deleted.status != http.StatusNoContent {
			t.Errorf("delete the upload: got %s, want 204", deleted)
		}
	})
	t.Run("headers", func(t *testing.T) {
		forged := fmt.Sprintf("forged-%d", time.Now().UnixNano())
		s.call(t, http.MethodGet, "validate", keysPath, token, map[string]string{"X-Auth-User-Id": forged}, nil)
		want := "user ID " + forged + ", scope -\n"
		eventually(t, time.Minute, func() string { // Envoy writes its access log every 10 s
			log := run(t, "kubectl", "logs", "--namespace", in.namespace, "deployment/"+in.deployment, "--since=5m", "--tail=-1")
			if !strings.Contains(log, want) {
				return fmt.Sprintf("the access log does not contain %q", want)
			}
			return ""
		})
	})
	t.Run("no authorizer", func(t *testing.T) {
		kubectl(t, "scale", "deployment/validate-direct", "--replicas=0")
		s.awaitKeys(t, token, http.StatusForbidden)
		kubectl(t, "scale", "deployment/validate-direct", "--replicas=2")
		s.awaitKeys(t, token, http.StatusOK)
	})
}
