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
	// startTimeout bounds the start of a function, on a machine that is busy with builds.
	startTimeout = 30 * time.Second
	// stopTimeout bounds its stop: the functions drain for 10 s at most.
	stopTimeout = 15 * time.Second
	// pollInterval is the pause between two looks at a process that is starting.
	pollInterval = 5 * time.Millisecond
)

// process is a child; see package child.
type process struct {
	pid  int
	log  *lineWriter
	done chan struct{} // closed once it has ended
	err  error         // how it ended; read after done
}

// launch starts a program whose output goes to log.
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

// stop ends the process with SIGTERM or, when its time is up, SIGKILL, and returns when it has ended.
func (p *process) stop() {
	_ = syscall.Kill(p.pid, syscall.SIGTERM) // it may have ended, which is what is wanted
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.kill()
	}
}

// kill ends the process and its group with SIGKILL.
func (p *process) kill() {
	select {
	case <-p.done:
		return // its id may belong to somebody else by now
	default:
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // as above
	<-p.done
}

// outcome says how an ended process ended, and what it said last.
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

// await returns once GET /healthz at address answers 200, or with the reason why it will not.
func (p *process) await(ctx context.Context, client *http.Client, address string) error {
	for {
		err := healthy(ctx, client, address)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return errors.New("it ended: " + p.outcome())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
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
		return fmt.Errorf("GET /healthz: %s", response.Status)
	}
	return nil
}

// freePort returns a loopback port that nobody listens on, below the range that Linux gives to outgoing connections: a
// client that dials a process which is away could else take its port, or reach itself.
func freePort() (int, error) {
	const first, ports = 20000, 12000
	for range 100 {
		port := first + rand.IntN(ports)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, errors.New("no free port")
}
