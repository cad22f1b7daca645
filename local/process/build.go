package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// progressInterval is how often a running build reports its progress.
	progressInterval = 10 * time.Second
	// maxErrors is the maximum number of bytes of compiler output in an error message.
	maxErrors = 2 << 10
)

// Build runs `go build` in dir with the given arguments, and calls progress at regular intervals. If the build
// fails, the error contains the end of the compiler's output.
func Build(ctx context.Context, dir string, progress func(status string), args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-v", "-trimpath", "-buildvcs=false"}, args...)...)
	// Disable cgo, as ko does for the images that run in a cluster.
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	var downloaded, compiled atomic.Int64
	var messages strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			switch line := scanner.Text(); {
			case strings.HasPrefix(line, "go: downloading "):
				downloaded.Add(1)
			case !strings.ContainsAny(line, " :"): // an import path, which -v prints
				compiled.Add(1)
			default:
				messages.WriteString(line + "\n")
			}
		}
		// The scanner stops at a line that does not fit in its buffer. Read and discard the rest of the output, because
		// go build would otherwise block.
		_, _ = io.Copy(io.Discard, reader)
	}()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cmd) }()
	begin := time.Now()
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			writer.Close()
			<-read
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				text := strings.TrimSpace(messages.String())
				return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-maxErrors):])
			}
			return nil
		case <-ticker.C:
			progress(fmt.Sprintf("%d modules downloaded, %d packages compiled in %s",
				downloaded.Load(), compiled.Load(), time.Since(begin).Round(time.Second)))
		}
	}
}
