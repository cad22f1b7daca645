package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
)

const (
	// startTimeout is how long a server may take to become ready. It is long because a concurrent build can slow down
	// the machine.
	startTimeout = 2 * time.Minute
	// stopTimeout is how long a process may take to end after SIGTERM before it is killed with SIGKILL.
	stopTimeout = 20 * time.Second
	// pollInterval is the time between two checks of a server that is starting.
	pollInterval = 50 * time.Millisecond
	// tailSize is the maximum number of bytes of program output in an error message.
	tailSize = 2 << 10
)

// Server is a server that consists of one or more processes. The context passed to a Start function limits only the
// start. Canceling the context later does not stop the server.
type Server struct {
	name     string
	dir      string
	programs []program

	mu      sync.Mutex
	lock    *os.File           // lock on dir; nil after Stop
	running []*process.Process // in the order of programs; empty while the server is stopped
}

// program describes a process of a server.
type program struct {
	// path, args and env are passed to exec.Cmd. args does not contain the name of the program.
	path string
	args []string
	env  []string
	// log is the path of the process's log file. If log is empty, start sets it to server.log in the server's
	// directory.
	log string
	// dir is the working directory. start sets it to the server's directory.
	dir string
	// ready returns an error if the process is not ready for clients yet.
	ready func(ctx context.Context) error
}

// start locks dir, calls prepare, and starts the returned programs one after another. If start returns an error,
// no process is running and dir is not locked.
func start(ctx context.Context, name, dir string, prepare func(dir string) ([]program, error)) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Server{name: name, dir: dir}
	if s.lock, err = reserve(dir); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if s.programs, err = prepare(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), s.Stop())
	}
	for i := range s.programs {
		p := &s.programs[i]
		p.dir, p.log = dir, cmp.Or(p.log, filepath.Join(dir, "server.log"))
	}
	if err := s.Restart(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Name returns the server's name, such as mariadbd, for use in messages.
func (s *Server) Name() string { return s.name }

// Restart stops the server, if it is running, and starts it again with the same ports and data. It waits up to two
// minutes for the server to become ready.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(stop); err != nil {
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
		p, err := program.launch(s.lock)
		if err == nil {
			s.running = append(s.running, p)
			if err = p.Await(ctx, pollInterval, program.ready); err != nil {
				err = fmt.Errorf("%w%s", err, program.tail())
			}
		}
		if err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", s.name, err), s.end((*process.Process).Kill))
		}
	}
	return nil
}

// Stop stops the server with SIGTERM and unlocks the server's directory. If a process is still running after 20 s, Stop
// kills it with SIGKILL.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end(stop)
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
	return s.end((*process.Process).Kill)
}

// Pid returns the ID of the server's main process, which is also the ID of its process group. While the server is
// stopped, Pid returns 0.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return 0
	}
	return s.running[len(s.running)-1].Pid()
}

// Done returns a channel that is closed when the server's current main process ends. While the server is stopped,
// Done returns a nil channel, which blocks forever.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return nil
	}
	return s.running[len(s.running)-1].Done()
}

// end calls the stop function for each process, starting with the process that was started last.
func (s *Server) end(stop func(*process.Process) error) error {
	var errs []error
	for i := len(s.running) - 1; i >= 0; i-- {
		if err := stop(s.running[i]); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	s.running = nil
	return errors.Join(errs...)
}

// launch starts a child process that runs the program. The child inherits the lock, so that the directory stays
// locked until the child has ended, even if this process ends first.
func (p program) launch(lock *os.File) (*process.Process, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = p.env, p.dir, log, log, []*os.File{lock}
	return process.Start(cmd, nil)
}

func stop(p *process.Process) error { return p.Stop(stopTimeout) }

// dial returns an error if the loopback port does not accept connections.
func dial(ctx context.Context, port int) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", process.Address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// tail returns the end of the log in a form that can be appended to an error message.
func (p program) tail() string {
	log, _ := os.ReadFile(p.log) // a log that cannot be read counts as empty
	text := bytes.TrimSpace(log[max(0, len(log)-tailSize):])
	if len(text) == 0 {
		return "; " + p.log + " is empty"
	}
	return "; the end of " + p.log + ":\n" + string(text)
}

// run runs the program at path, waits until it ends, and returns the end of its output. If ctx is done first, run
// kills the program's process group.
func run(ctx context.Context, dir string, env []string, path string, args ...string) (string, error) {
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &out
	err := process.Run(ctx, cmd)
	text := bytes.TrimSpace(out.Bytes())
	return string(text[max(0, len(text)-tailSize):]), err
}
