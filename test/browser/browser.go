// Package browser tries the web console as people use it: in a real Chromium, driven by console.mjs with playwright-core.
package browser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/knative/local/store"
)

const (
	// installTime bounds what has to be installed first: Debian's packages and npm's.
	installTime = 8 * time.Minute
	// tryTime bounds the whole visit; on an idle machine it takes about a minute.
	tryTime = 5 * time.Minute
)

// Try visits the console at url as the admin with these credentials and as a user that the admin makes, which is deleted
// again. dir is where this package is; screenshots of every page, light, dark and of a phone's width, go to output in it.
//
// What is not installed is, by root on a Debian; else the test is skipped, and with CI=true it fails.
func Try(t *testing.T, dir, url, username, password string) {
	t.Helper()
	chromium := find(t, store.InstallChromium, "chromium", "google-chrome")
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
	node := exec.CommandContext(ctx, "node", "console.mjs")
	node.Dir = project
	node.Env = append(os.Environ(), "CHROMIUM="+chromium, "OUTPUT="+output,
		"STRONGROOM_URL="+url, "STRONGROOM_USERNAME="+username, "STRONGROOM_PASSWORD="+password)
	out, err := node.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %v", tryTime)
	}
	if err != nil {
		t.Fatalf("the visit failed: %v; see %s\n%s", err, output, out)
	}
	t.Logf("screenshots are in %s\n%s", output, out)
}

// Project copies the Node project in dir, without what is built or installed, to a directory of the test's own, installs
// what its lock file says, and returns the copy.
func Project(t *testing.T, dir string) string {
	t.Helper()
	find(t, store.InstallNode, "node")
	find(t, store.InstallNode, "npm")
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
	// What is in npm's cache is taken from there: in a cluster's network there is no registry.
	Run(t, project, installTime, "npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
	return project
}

// Run runs a command in dir, which has to succeed within limit.
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

// find returns the path of the first of these programs that there is, after installing them if there is none.
func find(t *testing.T, install func(context.Context, io.Writer) error, names ...string) string {
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
	err := install(ctx, t.Output())
	if path := look(); err == nil && path != "" {
		return path
	}
	if errors.Is(err, errors.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skipf("SKIPPED: %s is not installed: %v", names[0], err)
	}
	t.Fatalf("%s is not installed: %v", names[0], err)
	return ""
}
