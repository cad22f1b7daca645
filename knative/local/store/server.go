package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/strongroom-dev/strongroom/knative/local/child"
)

const (
	// startTimeout is how long a server may take to become ready. It is long because a concurrent build can slow down
	// the machine.
	startTimeout = 2 * time.Minute
	// stopTimeout is how long a process may take to end after SIGTERM before it is killed with SIGKILL.
	stopTimeout = 20 * time.Second
	// pollInterval is the time between two checks of a server that is starting, and between two attempts to get a lock.
	pollInterval = 50 * time.Millisecond
	// tailSize is the maximum number of bytes of program output in an error.
	tailSize = 2 << 10
)

// Server is a server that consists of one or more processes. It can be stopped and restarted.
type Server struct {
	name     string
	dir      string
	programs []program

	mu      sync.Mutex
	lock    *os.File   // lock on dir; nil after Stop
	running []*process // in the order of programs; empty while the server is stopped
}

// program describes a process of a server.
type program struct {
	// path, args, env and dir are passed to exec.Cmd. args does not contain the name of the program.
	path string
	args []string
	env  []string
	dir  string
	// log is the path of the file to which the process's output is appended.
	log string
	// ready returns an error if the process is not ready for clients yet.
	ready func(ctx context.Context) error
	// patience is how long the process may take to end after SIGTERM before it is killed with SIGKILL. 0 means
	// stopTimeout.
	patience time.Duration
}

// start starts the programs in order, and waits for each program until it is ready. If start returns an error, no
// process is left running and the lock is released.
func start(ctx context.Context, name, dir string, lock *os.File, programs ...program) (*Server, error) {
	s := &Server{name: name, dir: dir, lock: lock, programs: programs}
	if err := s.Restart(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Restart starts the server again with the same ports and data. If the server is running, Restart first stops it.
// Restart returns when the server is ready. If the server ends or is not ready within two minutes, Restart returns an
// error that contains the end of the server's log.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(syscall.SIGTERM); err != nil {
		return err
	}
	if s.lock == nil {
		lock, err := reserve(s.dir)
		if err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		s.lock = lock
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, program := range s.programs {
		p, err := launch(program)
		if err == nil {
			s.running = append(s.running, p)
			err = p.await(ctx)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", s.name, err), s.end(syscall.SIGKILL))
		}
	}
	return nil
}

// Stop stops the server with SIGTERM and unlocks the server's directory. If a process is still running after 20 s, Stop
// kills it with SIGKILL.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end(syscall.SIGTERM)
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}

// Kill kills the server with SIGKILL, as in a crash. The server's directory stays locked, so that no other process can
// use it before the server is restarted.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGKILL)
}

// Pid returns the process ID of the server, which is also the ID of its process group. If the server has several
// processes, Pid returns the ID of the main process. While the server is stopped, Pid returns 0.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return 0
	}
	return s.running[len(s.running)-1].pid
}

// Done returns a channel that is closed when the current main process of the server has ended. While the server is
// stopped, Done returns nil, so that a receive operation blocks forever.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return nil
	}
	return s.running[len(s.running)-1].done
}

// end ends the processes in the reverse of the order in which they were started. It sends sig to each of them.
func (s *Server) end(sig syscall.Signal) error {
	var errs []error
	for i := len(s.running) - 1; i >= 0; i-- {
		if err := s.running[i].end(sig); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	s.running = nil
	return errors.Join(errs...)
}

// process is a child process that leads its own process group.
type process struct {
	program
	pid  int
	done chan struct{} // closed when the process has ended
	how  string        // exit status; valid after done is closed
}

// launch starts a process that runs program.
func launch(program program) (*process, error) {
	log, err := os.OpenFile(program.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program.path, program.args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = program.env, program.dir, log, log
	p := &process{program: program, done: make(chan struct{})}
	err = child.Start(cmd, func(error) { // ignore the error, because ProcessState contains the same information
		p.how = cmd.ProcessState.String()
		close(p.done)
	})
	if err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// await waits until the process is ready. It returns an error if the process or ctx ends before that.
func (p *process) await(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := p.ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s%s", filepath.Base(p.path), p.how, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w%s", filepath.Base(p.path), context.Cause(ctx), err, p.tail())
		case <-time.After(pollInterval):
		}
	}
}

// dial returns an error if the loopback port does not accept connections.
func dial(ctx context.Context, port int) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// end sends sig to the process and waits until the process has ended, but no longer than p.patience. Then end sends
// SIGKILL to all processes that are left in the process group. If sig is SIGKILL, end sends it to the group
// immediately.
func (p *process) end(sig syscall.Signal) error {
	if sig != syscall.SIGKILL {
		// Signal only the group leader, so that it can stop its own child processes in the right order.
		select {
		case <-p.done:
		default:
			_ = syscall.Kill(p.pid, sig)
		}
		select {
		case <-p.done:
		case <-time.After(cmp.Or(p.patience, stopTimeout)):
		}
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("process %d is still running after SIGKILL", p.pid)
	}
}

// tail returns the end of the log in a form that can be appended to an error message.
func (p *process) tail() string {
	text, err := lastBytes(p.log, tailSize)
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return "; " + p.log + " is empty"
	}
	return "; the end of " + p.log + ":\n" + strings.TrimSpace(string(text))
}

func lastBytes(path string, n int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-n), n))
}

// run runs the program at path, waits until it ends, and returns the end of its output. If ctx ends first, run kills
// the process group of the program.
func run(ctx context.Context, dir string, env []string, path string, args ...string) (string, error) {
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &out
	err := child.Run(ctx, cmd)
	text := bytes.TrimSpace(out.Bytes())
	return string(text[max(0, len(text)-tailSize):]), err
}
