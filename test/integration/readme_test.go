package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestReadmeSession proves that the curl session in the README works. It runs the commands with another address, and
// compares their output with the output in the README. The IDs and times can differ.
func TestReadmeSession(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, session, found := strings.Cut(string(readme), "```console\n$ TOKEN=")
	session, _, ended := strings.Cut(session, "```")
	if !found || !ended {
		t.Fatal("the README has no console block that begins with $ TOKEN=")
	}
	r := startRunner(t, t.TempDir())
	defer r.stop(t, syscall.SIGINT)
	address := strings.TrimPrefix(r.url, "http://")

	var script, want strings.Builder
	for line := range strings.Lines("$ TOKEN=" + session) {
		if command, typed := strings.CutPrefix(line, "$ "); typed {
			// The IDs in the README are examples. A reader replaces them with the ID that upload has just returned.
			command = strings.ReplaceAll(command, "localhost:8080", address)
			script.WriteString(ids.ReplaceAllString(command, "$$ID"))
			if strings.Contains(command, "/upload") {
				script.WriteString(newestID)
			}
		} else {
			want.WriteString(line)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-uc", script.String())
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "ADDRESS="+address)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run the session: %v\n%s", err, out)
	}
	if got, want := mask(string(out)), mask(want.String()); got != want {
		t.Errorf("got\n%s\nwant the output in the README\n%s", got, want)
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

var (
	ids   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// mask replaces the IDs and times in s, which are different in each run.
func mask(s string) string { return times.ReplaceAllString(ids.ReplaceAllString(s, "ID"), "TIME") }
