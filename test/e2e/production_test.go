//go:build e2e && production

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestProductionPage proves that docs/production.md leads to an installation that works. It runs the commands of the
// page in their order, in one shell, in a cluster without Strongroom. Each command must succeed. Before the first
// command, it sets the values that test/production/stores has written. It skips commands that another test runs with a
// stand-in, and commands for which test/docs/testdata/commands names a reason in the table "Not run" of
// docs/real-runs.md.
func TestProductionPage(t *testing.T) {
	page, err := commands.On(root, "docs/production.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := commands.Entries(filepath.Join(root, "test/docs/testdata/commands"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString(". ./values\n")
	// The port of the ingress for HTTPS is not reachable from outside the cluster of .ci/run.
	in := findIngress(t)
	fmt.Fprintf(&script, "curl() { command curl --cacert ca.crt --connect-to '::%s' \"$@\"; }\n", forward(t, in.namespace, "service/"+in.service, "443"))
	script.WriteString("kubectl create namespace monitoring\n") // the page creates this namespace with Helm
	t.Cleanup(func() { kubectl(t, "delete", "--ignore-not-found", "namespace", "monitoring") })
	ran := 0
	for _, command := range page {
		i := slices.IndexFunc(entries, func(e commands.Entry) bool { return e.Line == command.Line() })
		if i < 0 {
			t.Fatalf("test/docs/testdata/commands has no entry for the command: %s", command.Line())
		}
		switch proof := entries[i].Proof; proof {
		case "TestProductionPage", "TestBackupAndRestore", "TestDocumentedCommands", "TestExternalStores", "TestHopsConfirmsTheSetting", ".ci/run":
			ran++
			fmt.Fprintf(&script, "cat <<'COMMAND'\n$ %s\nCOMMAND\n%s\n", command.Text, command.Text)
		default:
			t.Logf("skipped (%s): %s", proof, command.Line())
		}
	}
	if ran < 20 {
		t.Fatalf("got %d commands to run, want at least 20", ran)
	}
	dir := copyTree(t)
	for _, name := range []string{"values", "ca.crt", "tls.crt", "tls.key"} {
		content, err := os.ReadFile(filepath.Join(root, ".strongroom/production", name))
		if err != nil {
			t.Fatalf("%v: run test/production/stores up", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The page writes the Secrets with the initial password of the first admin.
	password := rand.Text()
	t.Cleanup(func() { storePassword(t, password) })
	// TestExternalStores and TestQueueMembers use the administrators, whose Secrets the page deletes.
	t.Cleanup(func() { run(t, "kubectl", "apply", "-f", filepath.Join(dir, "secrets.yaml")) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script.String())
	shell.Dir, shell.WaitDelay = dir, time.Second // a program that bash has started can keep the pipe open
	shell.Env = append(os.Environ(), "PASSWORD="+password)
	shell.Stdout, shell.Stderr = os.Stdout, os.Stdout
	if err := shell.Run(); err != nil {
		t.Errorf("run the commands of docs/production.md: %v", err)
	}
}
