// Package browser tests the web console in Chromium. The scripts console.mjs and passkeys.mjs control Chromium with
// playwright-core.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
)

const (
	// installTime is the time limit for each installation of Debian or npm packages.
	installTime = 8 * time.Minute
	// tryTime is the time limit for the test of the console. On an idle machine, the test takes about a minute.
	tryTime = 5 * time.Minute
)

// Try tests the web console at url as the admin with the given credentials, and as a user that the admin creates and
// deletes. dir is the directory of package browser. Screenshots are written to its output subdirectory.
func Try(t *testing.T, dir, url, username, password string) {
	t.Helper()
	try(t, dir, "console.mjs", url, username, password)
}

// TryPasskeys tests passkeys at url as the admin with the given credentials. The parameters are those of Try.
func TryPasskeys(t *testing.T, dir, url, username, password string) {
	t.Helper()
	try(t, dir, "passkeys.mjs", url, username, password)
}

func try(t *testing.T, dir, script, url, username, password string) {
	t.Helper()
	chromium := find(t, []string{"chromium"}, "chromium", "google-chrome")
	project := Project(t, dir)
	output, err := filepath.Abs(filepath.Join(dir, "output"))
	if err == nil {
		err = os.RemoveAll(output)
	}
	if err == nil {
		err = os.MkdirAll(output, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), tryTime)
	defer cancel()
	node := exec.CommandContext(ctx, "node", script)
	node.Dir = project
	node.Env = append(os.Environ(), "CHROMIUM="+chromium, "OUTPUT="+output,
		"STRONGROOM_URL="+url, "STRONGROOM_USERNAME="+username, "STRONGROOM_PASSWORD="+password)
	out, err := node.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("the test did not finish within %v", tryTime)
	}
	if err != nil {
		t.Fatalf("test the console: %v; screenshots are in %s\n%s", err, output, out)
	}
	t.Logf("screenshots are in %s\n%s", output, out)
}

// Project copies the Node.js project in dir, without its build output and installed packages, to a temporary directory.
// It installs the packages that the lock file lists in the copy, and returns the path of the copy.
func Project(t *testing.T, dir string) string {
	t.Helper()
	find(t, []string{"nodejs", "npm"}, "node")
	find(t, []string{"nodejs", "npm"}, "npm")
	project := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == "node_modules" || name == "dist" || name == "output" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(project, name), 0o755)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(project, name), content, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	// Make npm use its cache (--prefer-offline), because the tests can run in a cluster network from which the npm
	// registry is not reachable.
	Run(t, project, installTime, "npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
	return project
}

// Run runs a command in dir. The test fails if the command fails or takes longer than limit.
func Run(t *testing.T, dir string, limit time.Duration, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// find returns the path of the first installed program in names. If none is installed, find installs the given
// Debian packages. If it cannot install them because it is not running as root on Debian, it skips the test, or
// fails the test if CI is "true".
func find(t *testing.T, packages []string, names ...string) string {
	t.Helper()
	look := func() string {
		for _, name := range names {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		return ""
	}
	if path := look(); path != "" {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTime)
	defer cancel()
	err := store.Install(ctx, t.Output(), packages...)
	if path := look(); err == nil && path != "" {
		return path
	}
	if errors.Is(err, errors.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skipf("SKIPPED: %s is not installed: %v", names[0], err)
	}
	t.Fatalf("%s is not installed: %v", names[0], err)
	return ""
}
