package integration

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/browser"
)

// TestConsole runs the browser test of package browser against the console of `make run`.
func TestConsole(t *testing.T) {
	r := startRunner(t, t.TempDir())
	browser.Try(t, "../browser", r.url, "grace", "murray-hopper-1906")
	r.stop(t, syscall.SIGTERM)
}

// TestPasskeys runs the browser test of passkeys against the console of `make run`.
func TestPasskeys(t *testing.T) {
	r := startRunner(t, t.TempDir())
	browser.TryPasskeys(t, "../browser", strings.Replace(r.url, "127.0.0.1", "localhost", 1), "grace", "murray-hopper-1906")
	r.stop(t, syscall.SIGTERM)
}

// TestConsoleIsReproducible proves that a build of the console produces exactly the committed files.
func TestConsoleIsReproducible(t *testing.T) {
	const sources = "../../functions/gateway/console"
	project := browser.Project(t, sources)
	browser.Run(t, project, 3*time.Minute, "npm", "run", "build")
	committed, built := readTree(t, filepath.Join(sources, "dist")), readTree(t, filepath.Join(project, "dist"))
	for _, name := range slices.Sorted(maps.Keys(committed)) {
		if built[name] != committed[name] {
			t.Errorf("the committed %s differs from the built file: run make console", name)
		}
		delete(built, name)
	}
	for name := range built {
		t.Errorf("the built file %s is not committed: run make console", name)
	}
}

// readTree returns the contents of all files below dir, by path.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree, name)
		files[name] = string(content)
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("read the files in %s: got %d files and error %v, want at least 1 file", dir, len(files), err)
	}
	return files
}
