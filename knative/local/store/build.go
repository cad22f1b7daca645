package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/strongroom-dev/strongroom/knative/local/child"
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
}

// nestedProgram returns the description of the program in the directory knative/local/NAME, where NAME is name.
func nestedProgram(name string) (nested, error) {
	switch name {
	case "ferretdb":
		return nested{title: "FerretDB", effort: "about a minute"}, nil
	case "tidb":
		return nested{title: "TiDB", effort: "about four minutes and 2 GB of memory"}, nil
	case "adapter":
		return nested{title: "the receive adapter", effort: "about a minute and a half"}, nil
	}
	return nested{}, fmt.Errorf("no program is named %q", name)
}

// progressInterval is how often a running build writes a progress message.
const progressInterval = 10 * time.Second

// Build builds the program called name, which is ferretdb, tidb or adapter, and returns the path of the binary in
// .strongroom/bin. It does nothing if the binary is up to date. If another process is building the same program, Build
// first waits for that build. The working directory must be in the source tree. w receives progress messages.
func Build(ctx context.Context, name string, w io.Writer) (string, error) {
	binary, err := build(ctx, name, w)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return binary, nil
}

func build(ctx context.Context, name string, w io.Writer) (string, error) {
	what, err := nestedProgram(name)
	if err != nil {
		return "", err
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "knative", "local", name)
	bin := filepath.Join(root, ".strongroom", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(bin, name)
	unlock, err := waitForLock(ctx, binary+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	want, err := digest(source)
	if err != nil {
		return "", err
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
	args := []string{"build", "-v", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary + ".new", "."}
	cmd := exec.Command("go", args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := watch(ctx, cmd, what.title, w); err != nil {
		return "", err
	}
	if err := os.Rename(binary+".new", binary); err != nil {
		return "", err
	}
	say(w, "built %s in %s", what.title, time.Since(begin).Round(time.Second))
	return binary, writeFile(binary+".stamp", want)
}

// watch runs the `go build` command cmd and writes progress messages to w. If the build fails, the error contains the
// end of the compiler's output.
func watch(ctx context.Context, cmd *exec.Cmd, title string, w io.Writer) error {
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			lines <- scanner.Text()
		}
		// The scanner stops at a line that does not fit its buffer. Discard the rest of the output, because go build would
		// otherwise block.
		_, _ = io.Copy(io.Discard, reader)
	}()
	failed := make(chan error, 1)
	go func() {
		failed <- child.Run(ctx, cmd)
		writer.Close()
	}()
	begin := time.Now()
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	var downloaded, compiled int
	var said bytes.Buffer
	for {
		select {
		case line, more := <-lines:
			switch {
			case !more:
				if err := <-failed; err != nil {
					text := bytes.TrimSpace(said.Bytes())
					return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-tailSize):])
				}
				return nil
			case strings.HasPrefix(line, "go: downloading "):
				downloaded++
			case !strings.ContainsAny(line, " :"): // an import path, which -v prints
				compiled++
			default:
				said.WriteString(line + "\n")
			}
		case <-ticker.C:
			say(w, "building %s: %d modules downloaded, %d packages compiled in %s",
				title, downloaded, compiled, time.Since(begin).Round(time.Second))
		}
	}
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

// digest returns a hash of all inputs of a build: the Go version and the files in the directory source, which include
// go.mod and go.sum.
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

// waitForLock waits until it holds an exclusive lock on the file at path. It returns a function that releases the lock.
func waitForLock(ctx context.Context, path string) (func(), error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { lock.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), lock.Close())
		case <-time.After(pollInterval):
		}
	}
}
