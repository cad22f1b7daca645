package console

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// imports matches an import of a module in the same directory.
var imports = regexp.MustCompile(`(?:from|import\()\s*'\./(\w+)'`)

// TestModulesHaveNoImportCycles checks the modules in src. Dynamic imports and imports of types count, too.
func TestModulesHaveNoImportCycles(t *testing.T) {
	files, err := filepath.Glob("src/*.ts*")
	if err != nil || len(files) < 10 {
		t.Fatalf("got %d modules and error %v, want at least 10 modules", len(files), err)
	}
	graph := map[string][]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		for _, match := range imports.FindAllStringSubmatch(string(content), -1) {
			graph[name] = append(graph[name], match[1])
		}
	}
	done := map[string]bool{}
	var visit func(name string, path []string)
	visit = func(name string, path []string) {
		if i := slices.Index(path, name); i >= 0 {
			t.Errorf("import cycle: %s", strings.Join(append(path[i:], name), " → "))
			return
		}
		if done[name] {
			return
		}
		for _, next := range graph[name] {
			visit(next, append(path, name))
		}
		done[name] = true
	}
	for name := range graph {
		visit(name, nil)
	}
}
