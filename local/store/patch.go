package store

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// patch replaces texts in source files of a module. It affects only the build of one program.
type patch struct {
	module  string
	changes []change
}

// change replaces the text old in a file with the text new.
type change struct{ file, old, new string }

// ferretDBPatch makes FerretDB use its SQLite indexes. Without the patch, FerretDB reads all documents of a collection
// to find one document. SQLite uses an index on an expression only if the query contains the same expression. The
// expressions in FerretDB's indexes have the form ->"_id", so the first change gives the expression in queries by _id
// the same form. The second change adds conditions on files_id and n to queries, so that SQLite finds chunks with the
// index on these fields.
var ferretDBPatch = &patch{"github.com/FerretDB/FerretDB", []change{
	{"internal/backends/sqlite/metadata/metadata.go", `DefaultColumn + "->'$._id'"`, `DefaultColumn + "->\"_id\""`},
	{"internal/backends/sqlite/collection.go", "\tif params.Filter.Len() == 1 {\n", `	for _, key := range []string{"files_id", "n"} {
		if params.Filter == nil {
			break
		}
		v, _ := params.Filter.Get(key)
		switch v.(type) {
		case string, int32:
			if whereClause == "" {
				whereClause = " WHERE "
			} else {
				whereClause += " AND "
			}
			whereClause += metadata.DefaultColumn + "->\"" + key + "\" = ?"
			args = append(args, string(must.NotFail(sjson.MarshalSingleValue(v))))
		}
	}
	if params.Filter.Len() == 1 {
`},
}}

// apply copies the module, applies the patch to the copy, and creates a go.mod file that uses the copy. It returns the
// path of this file, for the -modfile flag of go build. source is the directory of the program. The names of all
// created files begin with prefix.
func (p patch) apply(ctx context.Context, source, prefix string) (modfile string, err error) {
	goCommand := func(args ...string) (string, error) {
		command := exec.CommandContext(ctx, "go", args...)
		command.Dir, command.Env = source, append(os.Environ(), "GOWORK=off")
		output, err := command.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
		}
		return strings.TrimSpace(string(output)), nil
	}
	if _, err := goCommand("mod", "download", p.module); err != nil {
		return "", err
	}
	original, err := goCommand("list", "-m", "-f", "{{.Dir}}", p.module)
	if err != nil {
		return "", err
	}
	copied := prefix + ".src"
	if err := os.RemoveAll(copied); err != nil {
		return "", err
	}
	if err := os.CopyFS(copied, os.DirFS(original)); err != nil {
		return "", err
	}
	for _, c := range p.changes {
		path := filepath.Join(copied, c.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if !strings.Contains(string(text), c.old) {
			return "", fmt.Errorf("patch %s in %s: the file does not contain %q", c.file, p.module, c.old)
		}
		if err := writeFile(path, strings.ReplaceAll(string(text), c.old, c.new)); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"mod", "sum"} {
		text, err := os.ReadFile(filepath.Join(source, "go."+name))
		if err != nil {
			return "", err
		}
		if err := writeFile(prefix+"."+name, string(text)); err != nil {
			return "", err
		}
	}
	_, err = goCommand("mod", "edit", "-replace="+p.module+"="+copied, prefix+".mod")
	return prefix + ".mod", err
}
