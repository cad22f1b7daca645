package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/docs/commands"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestOperationsWithMakeRun runs the commands in docs/operations.md that need the processes of `make run`. It starts the
// runner with the settings of the command in docs/monitoring.md.
func TestOperationsWithMakeRun(t *testing.T) {
	_, err := store.FindMySQL(t.Context())
	servertest.Need(t, "mariadb-server", err)
	_, err = store.FindRabbitMQ()
	servertest.Need(t, "rabbitmq-server", err)
	users, err := commands.Block("../..", "docs/operations.md", "json", `{"username":"ada","password_hash"`)
	if err != nil {
		t.Fatal(err)
	}
	found, err := commands.On("../..", "docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	traces, err := commands.On("../..", "docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, traces...)
	var settings, scripts []string
	for _, command := range found {
		if before, isRun := strings.CutSuffix(command.Line(), " make run"); isRun {
			settings = append(settings, strings.Fields(before)...)
		}
		if strings.Contains(command.Text, ".strongroom/bin/setup") {
			scripts = append(scripts, command.Text)
		}
	}
	if len(settings) != 2 || len(scripts) != 3 {
		t.Fatalf("docs/operations.md and docs/monitoring.md: got the settings %q and %d commands, want 2 and 3", settings, len(scripts))
	}

	dir := t.TempDir()
	r := startRunner(t, dir, append(settings, "STRONGROOM_STORES=installed")...)
	defer r.stop(t, syscall.SIGINT)
	token := r.login(t)
	r.wantCatalogued(t, token, r.upload(t, token, []byte("a file"))) // this also starts upload and files
	if !strings.Contains(r.output(), "serving metrics") {
		t.Errorf("the output of the runner does not name the port of the metrics:\n%s", r.output())
	}
	if err := os.WriteFile(filepath.Join(dir, "users.jsonl"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	inDir := strings.NewReplacer("$PWD/.strongroom/", dir+"/", ".strongroom/", dir+"/")
	// The demo accounts ada and grace exist already.
	for i, want := range []string{"dead letters moved back: 0\n", "problems: 0\n", "imported: 1\nalready existed (unchanged): 2\n"} {
		shell := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail")
		shell.Dir, shell.Env, shell.Stdin = dir, withoutStores(), strings.NewReader(inDir.Replace(scripts[i]))
		if out, err := shell.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: got %v and the output\n%s\nwant %q", scripts[i], err, out, want)
		}
	}
}
