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
	// startTimeout bounds a start, on a machine that is busy with builds.
	startTimeout = 2 * time.Minute
	// stopTimeout bounds a stop; what has not ended by then is killed.
	stopTimeout = 20 * time.Second
	// pollInterval is the pause between two looks at a server that is starting.
	pollInterval = 50 * time.Millisecond
	// tailSize is how much of a log an error carries, in bytes.
	tailSize = 2 << 10
)

// Server is a running server: one process, or several that belong together.
type Server struct {
	name     string
	dir      string
	programs []program

	mu      sync.Mutex
	lock    *os.File   // holds dir; nil after Stop
	running []*process // in the order of programs; empty when stopped
}

// program is one process of a server.
type program struct {
	// path, args, env and dir are those of the command.
	path string
	args []string
	env  []string
	dir  string
	// log is the file that gets the output.
	log string
	// ready returns nil once the process answers in its protocol.
	ready func(ctx context.Context) error
	// patience is how long SIGTERM may take; stopTimeout where it is 0.
	patience time.Duration
}

// start starts the programs in their order. When it fails nothing is left running and the lock is released.
func start(ctx context.Context, name, dir string, lock *os.File, programs ...program) (*Server, error) {
	s := &Server{name: name, dir: dir, lock: lock, programs: programs}
	if err := s.Restart(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Restart starts the server again, with the same ports and data, after Stop, Kill, or its end; a server that runs is
// stopped first. It returns once the server answers, and an error with the tail of its log if it does not in time.
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

// Stop ends the server with SIGTERM, and with SIGKILL what has not ended in 20 s, and releases its directory.
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

// Kill ends the server with SIGKILL, as a crash would. Its directory stays reserved for Restart.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGKILL)
}

// Pid is the id of the server's process and of its process group, 0 while it is stopped.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return 0
	}
	return s.running[len(s.running)-1].pid
}

// Done is closed when the server's present process has ended; nil, which is never ready, while it is stopped.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) == 0 {
		return nil
	}
	return s.running[len(s.running)-1].done
}

// end ends the processes, last first, and forgets them.
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

// process is a child that leads a process group of its own.
type process struct {
	program
	pid  int
	done chan struct{} // closed once it has been waited for
	how  string        // how it ended; read after done
}

// launch starts a program.
func launch(program program) (*process, error) {
	log, err := os.OpenFile(program.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program.path, program.args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = program.env, program.dir, log, log
	p := &process{program: program, done: make(chan struct{})}
	err = child.Start(cmd, func(error) { // which says what the state says
		p.how = cmd.ProcessState.String()
		close(p.done)
	})
	if err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// await returns once the process answers.
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
			return fmt.Errorf("%s does not answer: %w: %w%s", filepath.Base(p.path), context.Cause(ctx), err, p.tail())
		case <-time.After(pollInterval):
		}
	}
}

// dial connects and hangs up.
func dial(ctx context.Context, port int) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// end sends sig to the process and, when it is gone or its time is up, SIGKILL to what is left of its group.
func (p *process) end(sig syscall.Signal) error {
	if sig != syscall.SIGKILL {
		// To the leader only: it ends its own children in the order that suits it.
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
		return fmt.Errorf("process %d has survived SIGKILL", p.pid)
	}
}

// tail is the end of the log, for an error's text.
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

// run runs a program to its end and returns the end of its output. When ctx ends, its whole group is killed.
func run(ctx context.Context, dir string, env []string, path string, args ...string) (string, error) {
	cmd := exec.Command(path, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &out
	err := child.Run(ctx, cmd)
	text := bytes.TrimSpace(out.Bytes())
	return string(text[max(0, len(text)-tailSize):]), err
}
