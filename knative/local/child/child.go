// Package child starts child processes. The kernel kills the child processes when their parent process ends, even if
// the parent process crashes.
package child

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// waitDelay is how long Run waits for the end of a process's output after the process has ended. The output can end
// later than the process, because the process's own children might still have it open.
const waitDelay = 10 * time.Second

// Start starts cmd as the leader of a new process group, so that Ctrl+C in a terminal does not signal cmd. The kernel
// kills cmd when this process ends. When cmd has ended, Start calls ended in another goroutine, with the result of
// cmd.Wait.
func Start(cmd *exec.Cmd, ended func(error)) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread that started the child process ends, even if other
		// threads continue. Therefore, keep this thread until the child process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}

// Run starts cmd in the same way as Start, and waits until cmd ends. If ctx ends first, Run kills the process group of
// cmd.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd.WaitDelay = waitDelay
	done := make(chan error, 1)
	if err := Start(cmd, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error means that the group has already ended
		return errors.Join(context.Cause(ctx), <-done)
	}
}
