//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestReadmeSession proves that the session of the README's section "On Kubernetes" works in the cluster. It runs the
// commands, and compares their output with the output in the README. The IDs and times can differ.
func TestReadmeSession(t *testing.T) {
	session, err := commands.Block(root, "README.md", "console", "$ URL=")
	if err != nil {
		t.Fatal(err)
	}
	// The test waits until the file is in the catalog, because a reader who types the commands waits at least as long.
	const wait = ` | tee upload.json
ID=$(sed -n 's/.*"id":"\([^"]*\)".*/\1/p' upload.json)
for _ in $(seq 120); do
  curl -s "$URL/files/$ID" -H "Authorization: Bearer $TOKEN" | grep -q catalogued_at && break
  sleep 1
done
`
	typed, want := commands.Session(session)
	var script strings.Builder
	for _, command := range typed {
		if strings.Contains(command, "/upload?") {
			command = strings.TrimSuffix(command, "\n") + wait
		}
		script.WriteString(command)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-uc", script.String())
	shell.Dir, shell.WaitDelay = t.TempDir(), time.Second // a curl that bash has started can keep the pipe open
	shell.Env = append(os.Environ(), "PASSWORD="+open(t).password)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("run the session: %v\n%s", err, out)
	}
	if got, want := commands.Mask(string(out)), commands.Mask(want); got != want {
		t.Errorf("got\n%s\nwant the output in the README\n%s", got, want)
	}
}
