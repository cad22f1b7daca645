package integration

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestReadmeSession proves that the curl session in the README works. It runs the commands with another address, and
// compares their output with the output in the README. The IDs and times can differ.
func TestReadmeSession(t *testing.T) {
	session, err := commands.Block("../..", "README.md", "console", "$ TOKEN=")
	if err != nil {
		t.Fatal(err)
	}
	r := startRunner(t, t.TempDir())
	defer r.stop(t, syscall.SIGINT)
	address := strings.TrimPrefix(r.url, "http://")

	dir := t.TempDir()
	// run runs a script, for at most 5 minutes.
	run := func(script string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		shell := exec.CommandContext(ctx, "bash", "-uc", strings.ReplaceAll(script, "localhost:8080", address))
		shell.Dir, shell.WaitDelay = dir, time.Second // a curl that bash has started can keep the pipe open
		shell.Env = append(os.Environ(), "ADDRESS="+address)
		out, err := shell.CombinedOutput()
		return string(out), err
	}
	inSession, want := commands.Session(session)
	var script strings.Builder
	for _, command := range inSession {
		script.WriteString(command)
		if strings.Contains(command, "/upload") {
			script.WriteString(newestID)
		}
	}
	out, err := run(script.String())
	if err != nil {
		t.Fatalf("run the session: %v\n%s", err, out)
	}
	if got, want := commands.Mask(out), commands.Mask(want); got != want {
		t.Errorf("got\n%s\nwant the output in the README\n%s", got, want)
	}

	// The README also repeats an upload of the same file with an Idempotency-Key.
	typed, err := commands.On("../..", "README.md")
	if err != nil {
		t.Fatal(err)
	}
	repeated, upload := inSession[0], "" // the session begins with the sign-in
	for _, command := range typed {
		if text := command.Text + "\n"; strings.HasPrefix(text, "KEY=") {
			repeated += text
		} else if strings.Contains(text, "Idempotency-Key: $KEY") {
			upload = text
		}
	}
	out, err = run(repeated + upload + upload)
	responses := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(responses) != 2 || responses[0] != responses[1] || !strings.Contains(responses[0], `"status":"stored"`) {
		t.Errorf("got the responses %q and the error %v, want the same response to the upload twice", responses, err)
	}
}

// newestID is a script that waits until the newest file is in the catalog, and stores the ID of the file in the
// variable ID. A reader who types the commands waits at least as long.
const newestID = `
for _ in $(seq 200); do
  ID=$(curl -s "$ADDRESS/files?limit=1" -H "Authorization: Bearer $TOKEN" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
  [[ -n $ID ]] && break
  sleep 0.1
done
`
