package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/strongroom-dev/strongroom/knative/local/child"
)

const (
	// startTimeout is how long the process of a function may take to become ready. It is long because a concurrent
	// build can slow down the machine.
	startTimeout = 30 * time.Second
	// stopTimeout is how long a process may take to end after SIGTERM before it is killed with SIGKILL. It is longer
	// than the 10 s within which a function completes its requests.
	stopTimeout = 15 * time.Second
	// pollInterval is the time between two health checks of a process that is starting.
	pollInterval = 5 * time.Millisecond
)

// process is a child process that was started with package child.
type process struct {
	pid  int
	log  *lineWriter
	done chan struct{} // closed when the process has ended
	err  error         // result of cmd.Wait; valid after done is closed
}

// launch starts the program at path with the given environment. The program writes its output to log.
func launch(path string, environment []string, log *lineWriter) (*process, error) {
	cmd := exec.Command(path)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	p := &process{log: log, done: make(chan struct{})}
	err := child.Start(cmd, func(err error) {
		p.err = err
		log.flush()
		close(p.done)
	})
	if err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// stop sends SIGTERM to the process. If the process does not end within stopTimeout, stop kills it with SIGKILL. It
// returns when the process has ended.
func (p *process) stop() {
	_ = syscall.Kill(p.pid, syscall.SIGTERM) // an error means that the process has already ended
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.kill()
	}
}

// kill sends SIGKILL to the process group of p and returns when the process has ended.
func (p *process) kill() {
	select {
	case <-p.done:
		return // another process might have the same ID now
	default:
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // an error means that the process has already ended
	<-p.done
}

// outcome returns the exit status of a process that has ended, and the last line of its output.
func (p *process) outcome() string {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if last := p.log.lastLine(); last != "" {
		how += ": " + last
	}
	return how
}

// await polls GET /healthz at address and returns nil when the response has the status 200. It returns an error if the
// process ends or ctx ends before that.
func (p *process) await(ctx context.Context, client *http.Client, address string) error {
	for {
		err := healthy(ctx, client, address)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return errors.New("the process ended: " + p.outcome())
		case <-ctx.Done():
			return fmt.Errorf("the process is not ready: %w", err)
		case <-time.After(pollInterval):
		}
	}
}

func healthy(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /healthz: unexpected response status %s", response.Status)
	}
	return nil
}

// freePort returns a free loopback port below 32768, because Linux uses higher ports as the local ports of outgoing
// connections. If a process used a higher port, a client that connects to the stopped process could get the process's
// port as its own local port. The client would then be connected to itself, or the process could no longer listen on
// the port.
func freePort() (int, error) {
	const first, ports = 20000, 12000
	for range 100 {
		port := first + rand.IntN(ports)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, errors.New("found no free loopback port")
}
