package servertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Killable is a server that a test is allowed to kill.
type Killable interface {
	// Kill kills the server. As in a power failure, the server does not shut down cleanly.
	Kill() error
	// Restart kills the server if it is running, starts it on the same data, and returns when it accepts connections.
	Restart(ctx context.Context) error
}

// namedServer is the name of a server that the script in STORES started.
type namedServer string

// ownNamed returns a named server for a test that kills it. Other tests must not use the server at the same time, so
// the tests of a package run one at a time, and "make integration" tests one package at a time. If the test fails,
// ownNamed restarts the server for the following tests.
func ownNamed(t *testing.T, name string) namedServer {
	t.Helper()
	server := namedServer(name)
	AtEnd(t, "restart "+name, func(ctx context.Context) error {
		if !t.Failed() {
			return nil
		}
		return server.Restart(ctx)
	})
	return server
}

// Kill kills the server.
func (s namedServer) Kill() error { return s.run(context.Background(), "kill") }

// Restart kills the server and starts it again.
func (s namedServer) Restart(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	return s.run(ctx, "start")
}

func (s namedServer) run(ctx context.Context, action string) error {
	if out, err := exec.CommandContext(ctx, os.Getenv("STORES"), action, string(s)).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", action, s, err, out)
	}
	return nil
}
