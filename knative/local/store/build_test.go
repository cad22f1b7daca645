package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuildTwiceBuildsOnce(t *testing.T) {
	first, err := Build(t.Context(), "ferretdb", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	second, err := Build(t.Context(), "ferretdb", &said)
	if err != nil || second != first {
		t.Fatalf("%s, %v; want %s", second, err, first)
	}
	if after, err := os.Stat(second); err != nil || !after.ModTime().Equal(before.ModTime()) || said.Len() > 0 {
		t.Errorf("%v, %v, and it said %q; want nothing done", after, err, said.String())
	}
	if want := filepath.Join(".strongroom", "bin", "ferretdb"); !strings.HasSuffix(first, want) {
		t.Errorf("built %s, want %s", first, want)
	}
}

func TestBuildErrors(t *testing.T) {
	if _, err := Build(t.Context(), "absent", t.Output()); err == nil || !strings.Contains(err.Error(), `"absent"`) {
		t.Errorf("a program that does not exist: %v", err)
	}
	impatient := errors.New("impatient")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(impatient)
	lock := filepath.Join(t.TempDir(), "lock")
	unlock, err := waitForLock(t.Context(), lock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := waitForLock(ctx, lock); !errors.Is(err, impatient) {
		t.Errorf("a lock that another holds: %v, want %v", err, impatient)
	}
	unlock()
	t.Chdir(t.TempDir())
	if _, err := Build(t.Context(), "ferretdb", t.Output()); err == nil || !strings.Contains(err.Error(), "source tree") {
		t.Errorf("outside of the source tree: %v", err)
	}
}

func TestBuildTellsWhatTheCompilerSays(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module broken\n", "main.go": "package main\n\nfunc main() { undefinedThing() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-v", "-o", os.DevNull, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	err := watch(t.Context(), cmd, "broken", t.Output())
	if err == nil || !strings.Contains(err.Error(), "undefinedThing") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error %v, want the compiler's words", err)
	}
}

func TestDigestFollowsTheSources(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for _, content := range []string{"package main\n", "package main // changed\n"} {
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := digest(dir)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("%q and %q have one digest", content, other)
		}
		seen[sum] = content
		if again, err := digest(dir); err != nil || again != sum {
			t.Errorf("a second look: %s, %v; want %s", again, err, sum)
		}
	}
}
