// Command audit runs the proofs, which are tests that reproduce known faults, and lists the proofs that still fail.
// A proof fails until its fault is fixed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// constraint is the first line of each file with tests that reproduce a known fault. It excludes these files from
// normal builds.
const constraint = "//go:build audit\n"

// timeout is the time limit for the proofs (the tests that reproduce known faults) in one package. It is long, because
// the first build of FerretDB alone takes minutes.
const timeout = "30m"

// proof is a test that reproduces a known fault. The test fails until the fault is fixed.
type proof struct {
	dir, name string
	// finding is the ID of a known fault, such as "data A7". rule describes the behavior that the test requires.
	finding, rule string
	// result is "pass", "fail" or "skip". It is empty if the proof did not run to completion.
	result string
}

func main() {
	proofs, err := find(".")
	if err == nil {
		err = run(proofs)
		report(os.Stdout, proofs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

// find returns the proofs (tests that reproduce known faults) in all files below root. It returns an error if a
// proof's comment does not have the required form.
func find(root string) (proofs []*proof, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || path != root && strings.HasPrefix(entry.Name(), ".")) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(source, []byte(constraint)) {
			return err
		}
		found, err := parse(path, source)
		proofs = append(proofs, found...)
		return err
	})
	return proofs, err
}

// parse returns the proofs (tests that reproduce known faults) in the Go file at path. The comment on each test
// must have the form "TestName checks ID: correct behavior".
func parse(path string, source []byte) (proofs []*proof, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
			continue
		}
		comment := strings.Join(strings.Fields(f.Doc.Text()), " ")
		sentence, named := strings.CutPrefix(comment, f.Name.Name+" checks ")
		finding, rule, found := strings.Cut(sentence, ": ")
		if !named || !found {
			return nil, fmt.Errorf("%s: the comment on %s is %q, want %q", path, f.Name.Name, comment, f.Name.Name+" checks ID: …")
		}
		proofs = append(proofs, &proof{dir: filepath.ToSlash(filepath.Dir(path)), name: f.Name.Name, finding: finding, rule: rule})
	}
	return proofs, nil
}

// run runs the tests in proofs and sets their results. It returns an error if a package does not compile, a test
// binary crashes, or a test does not complete.
func run(proofs []*proof) error {
	var names, dirs []string
	for _, p := range proofs {
		names, dirs = append(names, p.name), append(dirs, "./"+p.dir)
	}
	if len(proofs) == 0 {
		return nil
	}
	fmt.Fprintf(os.Stderr, "running %d proofs\n", len(proofs))
	args := []string{"test", "-tags", "audit", "-json", "-count=1", "-timeout", timeout, "-run", "^(" + strings.Join(names, "|") + ")$"}
	cmd := exec.Command("go", append(args, slices.Compact(dirs)...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf(`start "go test": %w`, err)
	}
	err = collect(events, proofs, os.Stderr)
	var exit *exec.ExitError
	if failed := cmd.Wait(); !errors.As(failed, &exit) { // a nonzero exit status is not an error, because proofs can fail
		err = errors.Join(err, failed)
	}
	return err
}

// collect sets the result of each test in proofs from the output of `go test -json`. log receives compiler errors
// and the output of packages whose tests crashed.
func collect(events io.Reader, proofs []*proof, log io.Writer) (err error) {
	output, crashed := map[string]string{}, map[string]bool{} // keyed by package
	for in := json.NewDecoder(bufio.NewReader(events)); ; {
		var e struct{ Action, Package, Test, Output string }
		if err := in.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf(`decode the output of "go test": %w`, err)
		}
		switch e.Action {
		case "build-output":
			fmt.Fprint(log, e.Output)
		case "output":
			output[e.Package] += e.Output
			if strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: ") {
				crashed[e.Package] = true
			}
		case "pass", "fail", "skip":
			for _, p := range proofs {
				if p.name == e.Test && strings.HasSuffix(e.Package, "/"+p.dir) {
					p.result = e.Action
				}
			}
		}
	}
	for pkg := range crashed {
		fmt.Fprint(log, output[pkg])
		err = errors.Join(err, fmt.Errorf("the tests of %s crashed", pkg))
	}
	for _, p := range proofs {
		if p.result == "" {
			err = errors.Join(err, fmt.Errorf("proof %s in %s did not run to completion", p.name, p.dir))
		}
	}
	return err
}

// report writes one line for each failed test in proofs, followed by the numbers of failed, passed and skipped
// tests.
func report(to io.Writer, proofs []*proof) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	counts := map[string]int{}
	for _, p := range proofs {
		counts[p.result]++
		if p.result == "fail" {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.name, p.dir, p.finding, p.rule)
		}
	}
	_ = w.Flush() // ignore the error, because it could only be reported on the same output
	fmt.Fprintf(to, "%d proofs: %d failed, %d passed, %d skipped\n", len(proofs), counts["fail"], counts["pass"], counts["skip"])
}
