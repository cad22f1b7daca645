package docs_test

import (
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// documented returns the commands on all pages except the changelog and the decisions, which describe the past.
func documented(t *testing.T) []commands.Command {
	t.Helper()
	var found []commands.Command
	for _, page := range pages(t) {
		if page == "CHANGELOG.md" || strings.HasPrefix(page, "docs/decisions/") {
			continue
		}
		on, err := commands.On(root, page)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, on...)
	}
	return found
}

// untested returns the names in the first column of the table "Not run" in docs/real-runs.md.
func untested(t *testing.T) []string {
	t.Helper()
	_, table, _ := strings.Cut(read(t, "docs/real-runs.md"), "\n## Not run\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var names []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
		names = append(names, row[1])
	}
	return names
}

// TestEachCommandIsTested checks that each command on a page has an entry in testdata/commands, that the test in the
// heading of the entry runs the command, and that the reason in the heading exists.
func TestEachCommandIsTested(t *testing.T) {
	entries, err := commands.Entries("testdata/commands")
	if err != nil {
		t.Fatal(err)
	}
	found, listed, reasons := map[string]bool{}, map[string]bool{}, untested(t)
	on, sources := documented(t), map[string]string{}
	for _, command := range on {
		found[command.Line()] = true
	}
	for _, entry := range entries {
		if listed[entry.Line] {
			t.Errorf("testdata/commands has two entries for the command: %s", entry.Line)
		}
		listed[entry.Line] = true
		if !found[entry.Line] {
			t.Errorf("testdata/commands: no page has the command: %s", entry.Line)
		}
		switch {
		case entry.Proof == ".ci/run":
			if !ciRuns(t, entry.Line) {
				t.Errorf("testdata/commands: .ci/run does not run the command: %s", entry.Line)
			}
		case strings.HasPrefix(entry.Proof, "Test"):
			if sources[entry.Proof] == "" {
				sources[entry.Proof] = source(t, entry.Proof)
			}
			if !runs(sources[entry.Proof], entry.Line) {
				t.Errorf("testdata/commands: the test %s does not run the command: %s", entry.Proof, entry.Line)
			}
		case !slices.Contains(reasons, entry.Proof):
			t.Errorf("testdata/commands: the table in docs/real-runs.md has no row %q", entry.Proof)
		}
	}
	for _, command := range on {
		if line := command.Line(); !listed[line] {
			t.Errorf("%s: testdata/commands has no entry for the command: %s", command.Page, line)
			listed[line] = true
		}
	}
	if len(found) < 100 {
		t.Errorf("found %d commands, want at least 100", len(found))
	}
}

// ciRuns reports whether a line of .ci/run has all words of a command, or the command is a prerequisite of `make test`.
func ciRuns(t *testing.T, command string) bool {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(root, ".ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	lines := append(strings.Split(string(script), "\n"), "make check") // make test runs it
	return slices.ContainsFunc(lines, func(line string) bool {
		words := strings.Fields(line)
		return !slices.ContainsFunc(strings.Fields(command), func(word string) bool { return !slices.Contains(words, word) })
	})
}

// source returns the source text of a test, and of all declarations of its package that the test uses, also indirectly.
func source(t *testing.T, test string) string {
	t.Helper()
	search := exec.CommandContext(t.Context(), "git", "grep", "-l", "--untracked", "^func "+test+"(t ", "--", "*_test.go")
	search.Dir = root
	found, err := search.Output()
	if err != nil {
		t.Errorf("testdata/commands: the test %s does not exist: %v", test, err)
	}
	var text strings.Builder
	for _, path := range strings.Fields(string(found)) {
		files, err := filepath.Glob(filepath.Join(root, filepath.Dir(path), "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		declared := map[string][]ast.Node{}
		set := token.NewFileSet()
		for _, path := range files {
			file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, declaration := range file.Decls {
				switch d := declaration.(type) {
				case *ast.FuncDecl:
					declared[d.Name.Name] = append(declared[d.Name.Name], d)
				case *ast.GenDecl:
					for _, spec := range d.Specs {
						if value, ok := spec.(*ast.ValueSpec); ok {
							for _, name := range value.Names {
								declared[name.Name] = append(declared[name.Name], value)
							}
						}
					}
				}
			}
		}
		for names := []string{test}; len(names) > 0; names = names[1:] {
			nodes := declared[names[0]]
			delete(declared, names[0])
			for _, node := range nodes {
				if err := printer.Fprint(&text, set, node); err != nil {
					t.Fatal(err)
				}
				ast.Inspect(node, func(n ast.Node) bool {
					if name, ok := n.(*ast.Ident); ok {
						names = append(names, name.Name)
					}
					return true
				})
			}
		}
	}
	return text.String()
}

// scripts matches the name of a script in the source of a test.
var scripts = regexp.MustCompile(`"(?:deploy/)?([a-z-]+)"`)

// runs reports whether the source of a test contains the words of a command: the names of the settings, the script or
// the target of make, and the arguments that are not examples. Each word must begin or end a string of Go, or end a
// command in backquotes. A line of a script in deploy that the test names can also contain the words. If the source uses
// the package commands, the test reads its commands from a page.
func runs(source, command string) bool {
	if strings.Contains(source, "commands.") {
		return true
	}
	var inGo, inScript []*regexp.Regexp
	for _, word := range strings.Fields(command) {
		name, _, setting := strings.Cut(word, "=")
		switch {
		case word == "make" || strings.HasPrefix(word, "<") || strings.Contains(word, "://"):
		case setting:
			inGo = append(inGo, regexp.MustCompile(`"`+name+`=`))
			inScript = append(inScript, regexp.MustCompile(`\b`+name+`=`))
		default:
			quoted := `\b` + regexp.QuoteMeta(path.Base(word))
			inGo = append(inGo, regexp.MustCompile(quoted+"[\"`]"))
			inScript = append(inScript, regexp.MustCompile(quoted+`("|\s|$)`))
		}
	}
	contains := func(text string, words []*regexp.Regexp) bool {
		return !slices.ContainsFunc(words, func(word *regexp.Regexp) bool { return !word.MatchString(text) })
	}
	if contains(source, inGo) {
		return true
	}
	for _, match := range scripts.FindAllStringSubmatch(source, -1) {
		script, err := os.ReadFile(filepath.Join(root, "deploy", match[1]))
		if err != nil {
			continue // the string does not name a script
		}
		lines := strings.Split(string(script), "\n")
		if slices.ContainsFunc(lines, func(line string) bool { return contains(line, inScript) }) {
			return true
		}
	}
	return false
}

// TestUnrelatedTestsAreFound checks the check.
func TestUnrelatedTestsAreFound(t *testing.T) {
	for command, tests := range map[string]struct{ right, wrong string }{
		"CLIENT=198.51.100.7 deploy/hops":                   {"TestHopsChecksEachURL", "TestHopsConfirmsTheSetting"},
		"DOMAIN=functions.example.com deploy/platform":      {"TestPlatformSetsDomain", "TestPlatformInstalls"},
		"deploy/platform serving kourier eventing rabbitmq": {"TestLaptops", "TestPlatformInstalls"},
		"deploy/rotate-keys retire":                         {"TestKeyRotationUnderLoad", "TestUndeploy"},
		"kn service list -n strongroom":                     {"TestDocumentedCommands", "TestUndeploy"},
	} {
		if !runs(source(t, tests.right), command) || runs(source(t, tests.wrong), command) {
			t.Errorf("%s: want that %s runs the command, and that %s does not", command, tests.right, tests.wrong)
		}
	}
}

// TestCommandsAreFound checks which commands a page contains.
func TestCommandsAreFound(t *testing.T) {
	const page = "Run `make test`, `EXPOSE=gateway make\ndeploy` or `make`.\n" +
		"`kubectl get pods -n strongroom` needs `kubectl`.\nRun `A=b ko apply -f x`, `git switch x && make y` or `curl -H 'X:'`.\n" +
		"`ko apply`, `kn domain create`, `deploy/hops`, `--flag VALUE`, `go` and `good day x` are not commands.\n\n" +
		"1. Step:\n\n   ```sh\n   # a comment\n   first \\\n     --flag # another comment\n\n   second <<END\n   text\n   END\n   ```\n\n" +
		"```sh\nwhile third; do\n  echo \"a\nb\"\ndone\nfourth |\n  fifth\n```\n\n" +
		"```console\n$ sixth\noutput\n$ seventh\n```\n\n```yaml\nkey: value\n```\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "page.md"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := commands.On(dir, "page.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, command := range found {
		got = append(got, command.Line())
	}
	want := []string{
		"first --flag", "second <<END text END", `while third; do echo "a b" done`, "fourth | fifth", "sixth", "seventh",
		"make test", "EXPOSE=gateway make deploy", "kubectl get pods -n strongroom",
		"A=b ko apply -f x", "git switch x && make y", "curl -H 'X:'",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
