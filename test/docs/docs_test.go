// Package docs_test checks the Markdown pages of the repository.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pages returns the paths of all Markdown pages that Git does not ignore, relative to root.
func pages(t *testing.T) []string {
	t.Helper()
	command := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md")
	command.Dir = root
	output, err := command.Output()
	if err != nil {
		t.Fatalf("list the Markdown pages: %v", err)
	}
	var found []string
	for _, path := range strings.Fields(string(output)) {
		if _, err := os.Stat(filepath.Join(root, path)); err == nil { // a deleted page can still be in Git's index
			found = append(found, path)
		}
	}
	return found
}

// fences matches a code block.
var fences = regexp.MustCompile("(?ms)^ *```.*?^ *```$")

// read returns the text of a page without its code blocks.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return fences.ReplaceAllString(string(content), "")
}

var (
	links    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	// dropped matches the characters that GitHub removes from a heading when it creates the anchor.
	dropped = regexp.MustCompile(`[^\p{L}\p{N}\p{M} _-]`)
)

// anchors returns the anchors that GitHub creates for the headings of a page.
func anchors(text string) []string {
	var found []string
	for _, heading := range headings.FindAllStringSubmatch(text, -1) {
		title := links.ReplaceAllStringFunc(heading[1], func(link string) string { return link[1:strings.Index(link, "](")] })
		anchor := strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
		for base, n := anchor, 1; slices.Contains(found, anchor); n++ {
			anchor = base + "-" + string(rune('0'+n))
		}
		found = append(found, anchor)
	}
	return found
}

// problem returns what is wrong with a link on a page, or an empty string.
func problem(t *testing.T, page, link string) string {
	target, err := url.Parse(link)
	if err != nil {
		return "is not a valid URL"
	}
	if target.Scheme != "" {
		return "" // this test has no access to the network
	}
	path := page
	if target.Path != "" {
		path = filepath.Join(filepath.Dir(page), target.Path)
	}
	if strings.HasPrefix(path, "..") {
		return "leaves the repository"
	}
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		return "does not exist"
	}
	if target.Fragment != "" && filepath.Ext(path) == ".md" && !slices.Contains(anchors(read(t, path)), target.Fragment) {
		return "has an anchor that does not exist"
	}
	return ""
}

func TestLinksResolve(t *testing.T) {
	found := 0
	for _, page := range pages(t) {
		for _, link := range links.FindAllStringSubmatch(read(t, page), -1) {
			found++
			if wrong := problem(t, page, link[1]); wrong != "" {
				t.Errorf("%s: the link %s %s", page, link[1], wrong)
			}
		}
	}
	if found < 100 {
		t.Errorf("found %d links, want at least 100", found)
	}
}

// TestBrokenLinksAreFound checks the check.
func TestBrokenLinksAreFound(t *testing.T) {
	for link, want := range map[string]string{
		"architecture.md":           "",
		"architecture.md#questions": "",
		"#questions":                "",
		"../go.mod":                 "",
		"https://example.com/x#y":   "",
		"absent.md":                 "does not exist",
		"architecture.md#absent":    "has an anchor that does not exist",
		"#absent":                   "has an anchor that does not exist",
		"../../x":                   "leaves the repository",
		"%zz":                       "is not a valid URL",
	} {
		if got := problem(t, "docs/architecture.md", link); got != want {
			t.Errorf("%s: got %q, want %q", link, got, want)
		}
	}
}

// declarations returns the names of the functions, methods, types, variables and constants in a Go file.
func declarations(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			names = append(names, d.Name.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, s.Name.Name)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

// named matches a link to a Go file that is followed by a name in backquotes.
var named = regexp.MustCompile("\\]\\(([^)\\s]+\\.go)\\)\\s+`(\\w+)`")

// TestNamesExist checks that each name after a link to a Go file is declared in that file.
func TestNamesExist(t *testing.T) {
	found := 0
	for _, page := range pages(t) {
		for _, match := range named.FindAllStringSubmatch(read(t, page), -1) {
			found++
			path := filepath.Join(filepath.Dir(page), match[1])
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				continue // TestLinksResolve reports it
			}
			if !slices.Contains(declarations(t, path), match[2]) {
				t.Errorf("%s: %s declares no %s", page, path, match[2])
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d names, want at least 20", found)
	}
}

var (
	quoted    = regexp.MustCompile("`([^`\\s]+)`")
	testNames = regexp.MustCompile(`^((?:Test|Fuzz|Benchmark)[A-Z]\w*)(…?)$`)
)

// missingTests returns the tests that a text names and that do not exist. A folder or a Go file in backquotes states
// where the next tests are, to the end of the paragraph or of the row of a table. An ellipsis stands for the rest of
// several names. found is the number of tests that the text names.
func missingTests(t *testing.T, text string) (missing []string, found int) {
	t.Helper()
	for _, block := range strings.Split(strings.ReplaceAll(text, "\n|", "\n\n|"), "\n\n") {
		folder, functions := "", ""
		for _, match := range quoted.FindAllStringSubmatch(block, -1) {
			if name := testNames.FindStringSubmatch(match[1]); name != nil {
				found++
				end := "("
				if name[2] != "" {
					end = "" // any name that begins like this
				}
				if !strings.Contains(functions, "\nfunc "+name[1]+end) {
					missing = append(missing, folder+" "+match[1])
				}
			} else if text := testsIn(t, match[1]); text != "" {
				folder, functions = match[1], text
			}
		}
	}
	return missing, found
}

// testsIn returns the text of all test files in a folder, or in the folder of a Go file. The text is empty if there are
// none.
func testsIn(t *testing.T, path string) (text string) {
	t.Helper()
	if filepath.Ext(path) == ".go" {
		path = filepath.Dir(path)
	}
	files, err := filepath.Glob(filepath.Join(root, path, "*_test.go"))
	if err != nil {
		return "" // path is not a path, but has the syntax of an invalid pattern
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += "\n" + string(content)
	}
	return text
}

// TestNamedTestsExist checks that the tests that prove the guarantees exist in the packages that the pages name.
func TestNamedTestsExist(t *testing.T) {
	for _, page := range []string{"docs/security.md", "docs/asvs.md"} {
		missing, found := missingTests(t, read(t, page))
		for _, test := range missing {
			t.Errorf("%s: there is no test %q", page, test)
		}
		if found < 40 {
			t.Errorf("%s: found %d names of tests, want at least 40", page, found)
		}
	}
}

// TestMetRequirementsNameTests checks that each requirement that docs/asvs.md calls met has a test.
func TestMetRequirementsNameTests(t *testing.T) {
	for line := range strings.Lines(read(t, "docs/asvs.md")) {
		columns := strings.Split(line, " | ")
		if _, found := missingTests(t, line); len(columns) == 3 && strings.HasPrefix(columns[2], "met") && found == 0 {
			t.Errorf("docs/asvs.md: the requirement %s is met, but the row names no test", strings.TrimPrefix(columns[0], "| "))
		}
	}
}

// TestMissingTestsAreFound checks the check.
func TestMissingTestsAreFound(t *testing.T) {
	for text, want := range map[string]string{
		"`test/docs` `TestLinksResolve`, `TestNamedTestsExist`": "",
		"`test/docs` `TestLinks…`":                              "",
		"`test/docs/docs_test.go` `TestLinksResolve`":           "",
		"`test/docs` `TestLinks`":                               "test/docs TestLinks",
		"`test/docs` `TestAbsent…`":                             "test/docs TestAbsent…",
		"`knative` `TestLinksResolve`":                          "knative TestLinksResolve",
		"`TestLinksResolve`":                                    " TestLinksResolve",
		"`test/docs`\n\n`TestLinksResolve`":                     " TestLinksResolve",
		"| `test/docs` |\n| `TestLinksResolve` |":               " TestLinksResolve",
	} {
		if missing, _ := missingTests(t, text); strings.Join(missing, ", ") != want {
			t.Errorf("%q: got the missing tests %q, want %q", text, missing, want)
		}
	}
}

// TestArchitectureAnswersTheQuestions checks that docs/architecture.md answers each question with a link, and that the
// README links to the page.
func TestArchitectureAnswersTheQuestions(t *testing.T) {
	if !strings.Contains(read(t, "README.md"), "](docs/architecture.md") {
		t.Error("README.md does not link to docs/architecture.md")
	}
	_, section, _ := strings.Cut(read(t, "docs/architecture.md"), "\n## Questions\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, question := range []string{
		"Where is a sign-in checked?",
		"Where are a file's bytes written?",
		"Where is a file's event published?",
		"Where is the catalog entry written?",
		"What runs when MongoDB is down?",
		"How do I add a function?",
	} {
		_, answer, found := strings.Cut(section, "**"+question+"**")
		answer, _, _ = strings.Cut(answer, "\n**")
		if !found || !links.MatchString(answer) {
			t.Errorf("the section Questions does not answer %q with a link", question)
		}
	}
}
