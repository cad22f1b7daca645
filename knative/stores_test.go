package knative_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// exactTag matches an image with a full version. A shorter tag can move to a later version, which might not start
// with the data of the previous version.
var exactTag = regexp.MustCompile(`^[a-z]+:[0-9]+\.[0-9]+\.[0-9]+(-management)?(@sha256:[0-9a-f]{64})?$`)

func TestStoresAreExactAndSayWhyTheyEnd(t *testing.T) {
	stores := 0
	for _, p := range pods(t) {
		if p.kind != "StatefulSet" {
			continue
		}
		stores++
		for _, c := range append(slices.Clone(p.spec.InitContainers), p.spec.Containers...) {
			if !exactTag.MatchString(c.Image) {
				t.Errorf("%s: container %s: got the image %s, want an exact version", p.path, c.Name, c.Image)
			}
			if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("%s: container %s: got terminationMessagePolicy %q, want %q, so that make deploy can show the last log lines",
					p.path, c.Name, c.TerminationMessagePolicy, corev1.TerminationMessageFallbackToLogsOnError)
			}
		}
	}
	if stores != 3 {
		t.Errorf("found %d stores, want 3", stores)
	}
}

// initContainer returns the init container of the StatefulSet mysql.
func initContainer(t *testing.T) corev1.Container {
	t.Helper()
	for _, p := range pods(t) {
		if p.name == "mysql" && len(p.spec.InitContainers) == 1 {
			return p.spec.InitContainers[0]
		}
	}
	t.Fatal("mysql has no init container")
	return corev1.Container{}
}

// moveData runs the init container's script on a volume. It puts a replacement for mv on PATH, which kills the script
// instead of moving another entry after the given number of moves. This simulates the loss of a node.
func moveData(t *testing.T, volume string, moves int) (string, error) {
	t.Helper()
	mv, err := exec.LookPath("mv")
	if err != nil {
		t.Fatal(err)
	}
	bin, count := t.TempDir(), filepath.Join(t.TempDir(), "moves")
	script := fmt.Sprintf("#!/bin/bash\necho >>%q\nif (($(wc -l <%[1]q) > %d)); then kill -KILL $PPID; exit 1; fi\nexec %s \"$@\"\n", count, moves, mv)
	if err := os.WriteFile(filepath.Join(bin, "mv"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := initContainer(t)
	command := exec.CommandContext(t.Context(), c.Command[0], append(slices.Clone(c.Command[1:]), c.Args...)...)
	command.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "VOLUME=" + volume}
	out, err := command.CombinedOutput()
	return string(out), err
}

// tree returns the files and directories below dir by relative path. The value is the file content, or "directory".
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || entry.IsDir() {
			found[name] = "directory"
			return err
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func newVolume(t *testing.T, files map[string]string) string {
	t.Helper()
	volume := t.TempDir()
	for name, content := range files {
		path := filepath.Join(volume, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil && content == "directory" {
			err = os.MkdirAll(path, 0o700)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return volume
}

// TestMySQLDataMoves checks that the init container moves the data of an older manifest to the new directory. The
// move must complete even if it was killed after any number of steps, and it must never overwrite a file.
func TestMySQLDataMoves(t *testing.T) {
	data := map[string]string{
		"mysql": "directory", "mysql/user.ibd": "user", "ibdata1": "system", "auto.cnf": "uuid", ".hidden": "hidden", "a b\nc": "odd", "-n": "option",
		"data": "directory", "data/t.ibd": "a database called data", "*": "star", "mysql.sock": "socket",
	}
	want := map[string]string{"mysql-data": "directory", "lost+found": "directory"}
	for name, content := range data {
		want["mysql-data/"+name] = content
	}
	entries := 0
	for name := range data {
		if !strings.Contains(name, "/") {
			entries++
		}
	}
	for moves := range entries + 1 {
		old := maps.Clone(data)
		old["lost+found"] = "directory"
		volume := newVolume(t, old)
		if out, err := moveData(t, volume, moves); (err == nil) != (moves == entries) {
			t.Errorf("with a limit of %d moves: unexpected result %v\n%s", moves, err, out)
		}
		for range 2 { // the first run completes the move, and the second run must change nothing
			if out, err := moveData(t, volume, 1<<20); err != nil {
				t.Errorf("another run after %d moves: %v\n%s", moves, err, out)
			}
			if got := tree(t, volume); !maps.Equal(got, want) {
				t.Errorf("another run after %d moves: got %q, want %q", moves, got, want)
			}
		}
	}

	empty := newVolume(t, map[string]string{"lost+found": "directory"})
	if out, err := moveData(t, empty, 0); err != nil {
		t.Errorf("new volume: %v\n%s", err, out)
	}
	if got, want := tree(t, empty), map[string]string{"lost+found": "directory", "mysql-data": "directory"}; !maps.Equal(got, want) {
		t.Errorf("new volume: got %q, want %q", got, want)
	}

	both := map[string]string{"mysql-data": "directory", "mysql-data/ibdata1": "new", "ibdata1": "old"}
	volume := newVolume(t, both)
	if out, err := moveData(t, volume, 1<<20); err == nil || !strings.Contains(out, "ibdata1") {
		t.Errorf("data in both directories: got %v with output %q, want an error that names ibdata1", err, out)
	}
	if got := tree(t, volume); !maps.Equal(got, both) {
		t.Errorf("data in both directories: got %q, want %q", got, both)
	}
}
