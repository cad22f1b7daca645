package store

import (
	"bytes"
	"os"
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
		t.Fatalf("second build: got %s, %v, want %s", second, err, first)
	}
	if after, err := os.Stat(second); err != nil || !after.ModTime().Equal(before.ModTime()) || said.Len() > 0 {
		t.Errorf("second build: got file %v, %v and output %q, want the same file and no output", after, err, said.String())
	}
	if want := filepath.Join(".strongroom", "bin", "ferretdb"); !strings.HasSuffix(first, want) {
		t.Errorf("got the path %s, want %s", first, want)
	}
}

func TestBuildErrors(t *testing.T) {
	if _, err := Build(t.Context(), "absent", t.Output()); err == nil || !strings.Contains(err.Error(), `"absent"`) {
		t.Errorf("unknown program: got %v, want an error that names the program", err)
	}
	t.Chdir(t.TempDir())
	if _, err := Build(t.Context(), "ferretdb", t.Output()); err == nil || !strings.Contains(err.Error(), "source tree") {
		t.Errorf("outside the source tree: got %v, want an error that mentions the source tree", err)
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
			t.Errorf("%q and %q have the same digest", content, other)
		}
		seen[sum] = content
		if again, err := digest(dir); err != nil || again != sum {
			t.Errorf("second digest of the same files: got %s, %v, want %s", again, err, sum)
		}
	}
	if err := os.Symlink("absent", filepath.Join(dir, "broken.go")); err != nil {
		t.Fatal(err)
	}
	if _, err := digest(dir); err == nil || !strings.Contains(err.Error(), "broken.go") {
		t.Errorf("file that cannot be read: got %v, want an error that names the file", err)
	}
}
