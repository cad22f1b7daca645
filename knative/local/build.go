package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/knative/local/child"
)

// progressInterval is how often a running build prints a progress message.
const progressInterval = 5 * time.Second

// buildPrograms compiles the programs at the import paths in packages and writes the binaries to dir. It disables cgo,
// as ko does for the images that run in a cluster.
func buildPrograms(ctx context.Context, root, dir string, packages []string, out *output) error {
	out.say("build", "building %d programs", len(packages))
	begin := time.Now()
	args := append([]string{"build", "-v", "-trimpath", "-buildvcs=false", "-o", dir + string(os.PathSeparator)}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	said, writer := io.Pipe()
	cmd.Stderr = writer
	progress := &buildProgress{}
	var reading sync.WaitGroup
	reading.Go(func() { progress.read(said) })
	stopped := make(chan struct{})
	reading.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-ticker.C:
				out.say("build", "%s in %s", progress, time.Since(begin).Round(time.Second))
			}
		}
	})
	err := child.Run(ctx, cmd)
	close(stopped)
	writer.Close()
	reading.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, strings.Join(progress.errors, "\n"))
	}
	out.say("build", "built %d programs in %s", len(packages), time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// buildProgress reads the output of `go build -v`. It counts the downloaded modules and the compiled packages. It keeps
// all other lines, because they contain the compiler's errors.
type buildProgress struct {
	mu                   sync.Mutex
	downloaded, compiled int
	errors               []string
}

func (b *buildProgress) read(r io.Reader) {
	for scanner := bufio.NewScanner(r); scanner.Scan(); {
		line := scanner.Text()
		b.mu.Lock()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			b.downloaded++
		case !strings.ContainsAny(line, " :"): // an import path
			b.compiled++
		default:
			b.errors = append(b.errors, line)
		}
		b.mu.Unlock()
	}
	// The scanner stops at a line that does not fit its buffer. Discard the rest of the output, because go build would
	// otherwise block.
	_, _ = io.Copy(io.Discard, r)
}

// String returns the number of downloaded modules and compiled packages as text for a progress message.
func (b *buildProgress) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%d modules downloaded, %d packages compiled", b.downloaded, b.compiled)
}
