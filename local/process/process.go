// Package process runs child processes, which the kernel kills when their parent process ends or crashes. The
// package also locks files, finds free ports, and runs `go build`.
package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	// waitDelay is how long exec.Cmd.Wait waits for the output to close after a process has ended. Without this
	// limit, the process's own children could keep the output open and block Wait forever.
	waitDelay = 10 * time.Second
	// killTimeout is how long a process may take to end after SIGKILL.
	killTimeout = 20 * time.Second
)

// Process is a child process that is running or has ended. It leads its own process group.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // result of cmd.Wait; valid after done is closed
}

// Start starts cmd in a new process group, so that Ctrl+C in a terminal does not interrupt cmd. If the callback is
// not nil, it runs after cmd has ended.
func Start(cmd *exec.Cmd, ended func()) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = waitDelay
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// With Pdeathsig, the kernel kills the child process when the thread that started it ends. Therefore, lock
		// this goroutine to its thread until the child process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		p.signalGroup() // kill the remaining processes in the group
		if ended != nil {
			ended()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signalGroup kills the process group. It ignores errors, because an error means that no process is left in the
// group.
func (p *Process) signalGroup() { _ = syscall.Kill(-p.Pid(), syscall.SIGKILL) }

// Pid returns the ID of the process, which is also the ID of its process group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns the result of exec.Cmd.Wait. The result is valid only after the channel from Done is closed.
func (p *Process) Err() error { return p.err }

// Status returns the exit status of a process that has ended, such as "exit status 1" or "signal: killed".
func (p *Process) Status() string { return p.cmd.ProcessState.String() }

// Await calls the ready function at the given interval until the function returns nil. If the process ends or ctx
// is done first, Await returns an error.
func (p *Process) Await(ctx context.Context, interval time.Duration, ready func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.Status())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w", filepath.Base(p.cmd.Path), context.Cause(ctx), err)
		case <-time.After(interval):
		}
	}
}

// Stop sends SIGTERM to the process. If the process does not end within timeout, Stop kills its process group. Stop
// returns when the process has ended.
func (p *Process) Stop(timeout time.Duration) error {
	// Send SIGTERM only to the process itself, not to its process group, so that the process can stop its own
	// children in the right order.
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that the process has already ended
	select {
	case <-p.done:
		return nil
	case <-time.After(timeout):
		return p.Kill()
	}
}

// Kill sends SIGKILL to the process group and returns when the process has ended.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil // another process might have the same ID now
	default:
	}
	p.signalGroup()
	select {
	case <-p.done:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("process %d is still running after SIGKILL", p.Pid())
	}
}

// Run starts cmd and waits until it ends. If ctx is done first, Run kills the process group of cmd, and the error
// wraps context.Cause(ctx).
func Run(ctx context.Context, cmd *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := Start(cmd, nil)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		if err := p.Kill(); err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		return errors.Join(context.Cause(ctx), p.err)
	}
}
