package servertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Killable is a server that a test is allowed to kill.
type Killable interface {
	// Kill ends the server process without a clean shutdown, as in a power failure.
	Kill() error
	// Restart kills the server if it is running. It then starts the server with the same data and waits until the
	// server accepts connections.
	Restart(ctx context.Context) error
}

// namedServer is the name of a server that was started by the script whose path is in the environment variable STORES.
// "STORES kill NAME" kills the server, and "STORES start NAME" starts it again. The directory STORES_DIR/NAME/root is
// the server's root directory.
type namedServer string

// ownNamed returns a named server for a test that kills it. Test only one package at a time (`go test -p 1`),
// because the tests of other packages cannot use a killed server.
func ownNamed(t *testing.T, name string) namedServer {
	t.Helper()
	server := namedServer(name)
	// Restart the server after a failed test, because the test might have failed before it restarted the server, and
	// later tests need the server.
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

// Restart kills the server and starts it again. It tries several times, because RabbitMQ sometimes hangs when it starts
// after a kill.
func (s namedServer) Restart(ctx context.Context) (err error) {
	const attempts, limit = 3, time.Minute
	for range attempts {
		if err := s.Kill(); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, limit)
		err = s.run(attempt, "start")
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (s namedServer) run(ctx context.Context, action string) error {
	if out, err := exec.CommandContext(ctx, os.Getenv("STORES"), action, string(s)).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", action, s, err, out)
	}
	return nil
}
