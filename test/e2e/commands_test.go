//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestDocumentedCommands runs commands from the documentation in one shell. Each command must succeed.
// test/docs/testdata/commands lists the commands in the order in which they run. The test replaces the IDs and names in
// the commands that are examples.
func TestDocumentedCommands(t *testing.T) {
	s := open(t)
	user := *s
	user.username, user.password, user.token = fmt.Sprintf("commands-%d", time.Now().UnixNano()), "analytical-engine", ""
	owner := s.newUser(t, user.username, user.password)
	f := newFile("documented.bin", 1<<10)
	user.upload(t, f)
	user.catalogued(t, f, 2*time.Minute)
	request := s.call(t, http.MethodGet, "gateway", "/accounts/me", s.signedIn(t), nil, nil)
	examples := strings.NewReplacer(
		"01a20aad-8d67-7a01-8827-df5314914dde", request.header.Get("X-Request-Id"),
		"0af7651916cd43dd8448eb211c80319c", traceOfRequest(t, request.header.Get("X-Request-Id")),
		"01a20a9d-39e6-7a06-b1c1-831b6e8e1933", owner,
		"login-00001", services(t)["login"].Status.LatestReady,
		"service update NAME", "service update files",
		"revision describe NAME", "revision describe "+services(t)["login"].Status.LatestReady,
		"scrub ID", "scrub "+f.id,
		"namespace monitoring", "namespace default",
		"namespace ingress", "namespace default",
	)

	// `kn service update` has created revisions with one pod, and `kn domain create` a domain.
	for _, name := range []string{"login", "validate", "files"} {
		t.Cleanup(func() {
			run(t, "kn", "service", "update", name, "--namespace", namespace, "--scale-min", "0", "--traffic", "@latest=100")
		})
	}
	t.Cleanup(func() {
		kubectl(t, "delete", "domainmapping,clusterdomainclaim", "files.example.com", "--ignore-not-found")
	})
	t.Cleanup(func() {
		kubectl(t, "label", "namespace", "default", "strongroom.dev/monitoring-", "strongroom.dev/ingress-")
		kubectl(t, "delete", "networkpolicy", "allow-all", "--ignore-not-found")
	})
	for _, name := range []string{"ada", "grace", "alan"} { // from users.jsonl
		t.Cleanup(func() { s.deleteNamed(t, name) })
	}
	dir := copyTree(t)
	users, err := commands.Block(root, "docs/operations.md", "json", `{"username":"ada","password_hash"`)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "users.jsonl"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}

	// Each `kn service update` starts a pod beside the pod of the previous revision. A small node has room for these pods
	// only if no other pods run.
	asleep(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", examples.Replace(documented(t)))
	shell.Dir, shell.WaitDelay = dir, time.Second // a program that bash has started can keep the pipe open
	shell.Env = append(os.Environ(), "PASSWORD="+s.password)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("run the commands: %v\n%s", err, strings.ReplaceAll(string(out), s.password, "…"))
	}
	if !strings.Contains(string(out), "imported: ") {
		t.Errorf("got no imported users in the output\n%s", strings.ReplaceAll(string(out), s.password, "…"))
	}
	if got := s.call(t, http.MethodGet, "files", "/files/"+f.id, s.signedIn(t), nil, nil); got.status != http.StatusNotFound {
		t.Errorf("get the file of the deleted user: got %s, want 404", got)
	}
}

// documented returns a script of the commands that TestDocumentedCommands runs. The script prints each command first.
func documented(t *testing.T) string {
	t.Helper()
	pages := []string{filepath.Join(root, "README.md")}
	for _, pattern := range []string{"docs/*.md", "docs/runbooks/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	texts := map[string]string{}
	for _, page := range pages {
		found, err := commands.On(root, strings.TrimPrefix(page, root+"/"))
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range found {
			texts[command.Line()] = command.Text
		}
	}
	entries, err := commands.Entries(filepath.Join(root, "test/docs/testdata/commands"))
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e commands.Entry) bool { return e.Proof != "TestDocumentedCommands" })
	if len(entries) < 30 {
		t.Fatalf("got %d commands, want at least 30", len(entries))
	}
	var script strings.Builder
	for _, entry := range entries {
		if texts[entry.Line] == "" {
			t.Fatalf("no page has the command %s", entry.Line)
		}
		fmt.Fprintf(&script, "cat <<'COMMAND'\n$ %s\nCOMMAND\n%s\n", entry.Line, texts[entry.Line])
	}
	return script.String()
}

// deleteNamed deletes the account with a user name, if it exists. There must be at most 100 accounts.
func (s *system) deleteNamed(t *testing.T, name string) {
	t.Helper()
	var page struct {
		Accounts []struct{ ID, Username string }
	}
	s.call(t, http.MethodGet, "accounts", "/accounts?limit=100", s.signedIn(t), nil, nil).decode(t, http.StatusOK, &page)
	for _, user := range page.Accounts {
		if user.Username != name {
			continue
		}
		if got := s.call(t, http.MethodDelete, "accounts", "/accounts/"+user.ID, s.signedIn(t), nil, nil); got.status != http.StatusNoContent {
			t.Errorf("delete the user %s: got %s, want 204", name, got)
		}
	}
}
