package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestReadmeSession types the README's curl session into a shell, as it stands there but for the address, and compares
// what comes out with what stands there, byte for byte apart from ids, times and digests of tokens.
func TestReadmeSession(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, session, found := strings.Cut(string(readme), "```console\n$ TOKEN=")
	session, _, ended := strings.Cut(session, "```")
	if !found || !ended {
		t.Fatal("the README has no session")
	}
	r := startRunner(t, t.TempDir())
	defer r.stop(t, syscall.SIGINT)
	address := strings.TrimPrefix(r.url, "http://")

	var script, want strings.Builder
	for line := range strings.Lines("$ TOKEN=" + session) {
		if command, typed := strings.CutPrefix(line, "$ "); typed {
			// Its ids are those of another day: a reader takes the one that upload has just printed.
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
		t.Fatalf("the session: %v\n%s", err, out)
	}
	if got, want := mask(string(out)), mask(want.String()); got != want {
		t.Errorf("got\n%s\nwant, by the README,\n%s", got, want)
	}
}

// newestID waits until the file that was handed in last is in the catalogue, as a reader's fingers do, and keeps its id.
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

// mask hides what differs from day to day.
func mask(s string) string { return times.ReplaceAllString(ids.ReplaceAllString(s, "ID"), "TIME") }
