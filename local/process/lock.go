package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"
)

// ErrLocked reports that another process holds a lock.
var ErrLocked = errors.New("another process holds the lock")

// Lock locks the file at path, after creating it if necessary. The error wraps ErrLocked if another process holds
// the lock.
func Lock(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock is held until this process and all processes that inherit the file have closed the file.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), lock.Close())
	}
	return lock, nil
}

// WaitForLock is like Lock, but waits while another process holds the lock.
func WaitForLock(ctx context.Context, path string) (*os.File, error) {
	for {
		lock, err := Lock(path)
		if !errors.Is(err, ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

const (
	// firstPort is the lowest port that FreePort can choose.
	firstPort = 20000
	// ports is the number of ports from which FreePort chooses. All of them are below 32768, because Linux assigns
	// higher ports to outgoing connections.
	ports = 12000
)

// FreePort returns a free loopback port.
func FreePort() (int, error) {
	for range 100 {
		// Choose a port below the range from which Linux assigns ports to outgoing connections. Otherwise, an
		// outgoing connection could occupy a stopped server's port and prevent the server's restart, or a client
		// could connect to itself.
		port := firstPort + rand.IntN(ports)
		if listener, err := net.Listen("tcp", Address(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("found no free loopback port between %d and %d", firstPort, firstPort+ports-1)
}

// Address returns the loopback address with the given port, in the form 127.0.0.1:PORT.
func Address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
