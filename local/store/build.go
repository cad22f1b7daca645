package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
)

// module is the path of the main module in go.mod.
const module = "github.com/strongroom-dev/strongroom"

// nested describes a program in a separate Go module. The module is separate so that the main module does not depend on
// the program's packages.
type nested struct {
	// title is the program's name in messages.
	title string
	// effort describes the time, and possibly the memory, that the first build needs on a machine with two cores.
	effort string
	// patch is a change to a dependency of the program, or nil.
	patch *patch
}

// nestedPrograms maps each program's name to its description. The source of each program is in local/NAME.
var nestedPrograms = map[string]nested{
	"ferretdb": {title: "FerretDB", effort: "about a minute", patch: ferretDBPatch},
	"tidb":     {title: "TiDB", effort: "about four minutes and 2 GB of memory"},
	"adapter":  {title: "the receive adapter", effort: "about a minute and a half"},
}

// Build returns the path of the program called name (ferretdb, tidb or adapter), after building it if necessary.
// The working directory must be in the source tree.
func Build(ctx context.Context, name string, w io.Writer) (binary string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build %s: %w", name, err)
		}
	}()
	what, known := nestedPrograms[name]
	if !known {
		return "", fmt.Errorf("no program is named %q", name)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "local", name)
	bin, err := BinDir()
	if err != nil {
		return "", err
	}
	binary = filepath.Join(bin, name)
	// Wait if another process is building the same program.
	lock, err := process.WaitForLock(ctx, binary+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	want, err := digest(source)
	if err != nil {
		return "", err
	}
	if what.patch != nil {
		want += fmt.Sprint(*what.patch)
	}
	// Compare digests instead of always running go build, because go build needs several seconds to check the program's
	// many packages even if nothing has changed.
	if built, err := os.ReadFile(binary + ".stamp"); err == nil && string(built) == want {
		if _, err := os.Stat(binary); err == nil {
			return binary, nil
		}
	}
	say(w, "building %s; the first build takes %s", what.title, what.effort)
	begin := time.Now()
	progress := func(status string) { say(w, "building %s: %s", what.title, status) }
	arguments := []string{"-ldflags=-s -w", "-o", binary + ".new", "."}
	if what.patch != nil {
		modfile, err := what.patch.apply(ctx, source, binary)
		if err != nil {
			return "", err
		}
		arguments = append([]string{"-modfile=" + modfile}, arguments...)
	}
	if err := process.Build(ctx, source, progress, arguments...); err != nil {
		return "", err
	}
	if err := os.Rename(binary+".new", binary); err != nil {
		return "", err
	}
	say(w, "built %s in %s", what.title, time.Since(begin).Round(time.Second))
	return binary, writeFile(binary+".stamp", want)
}

// BinDir returns the directory of the programs that are built or downloaded, .strongroom/bin. It creates the directory
// if necessary. The working directory must be in the source tree.
func BinDir() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".strongroom", "bin")
	return bin, os.MkdirAll(bin, 0o755)
}

// moduleRoot returns the root directory of the main module. It searches the working directory and its parents.
func moduleRoot() (string, error) {
	from, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := from; ; dir = filepath.Dir(dir) {
		file, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(file), "module "+module+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in the source tree of %s", from, module)
		}
	}
}

// digest returns a hash of all inputs of a build except the patch: the Go version and the files in the source
// directory, including go.mod and go.sum.
func digest(source string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version())
	entries, err := os.ReadDir(source)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(source, entry.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", entry.Name(), len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
