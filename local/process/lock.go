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

// Lock locks the file at path. If the file does not exist, Lock first creates it. The lock is released when the file is
// closed in this process and in all processes that inherit the file. The error wraps ErrLocked if another process holds
// the lock.
func Lock(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
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

// firstPort is the first port that FreePort can choose, and ports is the number of such ports. They are all below
// 32768, because Linux uses higher ports as the local ports of outgoing connections. A client that tries to connect to
// a stopped server on a higher port could therefore get the server's port as its own local port. The client would then
// be connected to itself, or the server could no longer listen on the port.
const (
	firstPort = 20000
	ports     = 12000
)

// FreePort returns a free loopback port.
func FreePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(ports)
		if listener, err := net.Listen("tcp", Address(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("found no free loopback port between %d and %d", firstPort, firstPort+ports-1)
}

// Address returns the loopback address with the given port, in the form 127.0.0.1:PORT.
func Address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
