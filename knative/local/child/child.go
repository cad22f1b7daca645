// Package child starts processes that do not outlive the one that started them, however that ends.
package child

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// waitDelay bounds the wait for output that a process's own children still hold open.
const waitDelay = 10 * time.Second

// Start starts cmd as the leader of a process group of its own, so that Ctrl-C at a terminal does not reach it, and so
// that the kernel kills it when this process ends. When it has ended it calls ended with what cmd.Wait returns.
func Start(cmd *exec.Cmd, ended func(error)) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread that forked ends, not the process: so the thread
		// is kept for as long as the child lives.
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

// Run runs cmd to its end as Start starts it. When ctx ends, its whole group is killed.
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
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended, which is what is wanted
		return errors.Join(context.Cause(ctx), <-done)
	}
}
