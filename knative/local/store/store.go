// Package store runs private servers on this machine: MariaDB, MySQL, TiDB, mongod, FerretDB, RabbitMQ, and the receive
// adapter of eventing-rabbitmq. Each instance has a data directory of its own, listens on free loopback ports, wants a
// random password that is kept beside its data (FerretDB apart, which knows none), and ends with the process that
// started it, however that ends.
//
// A Start function's context bounds the start, not the life of the server. Its directory keeps everything, the server's
// log included; starting in the same directory again finds the data again. The writer gets progress, line by line.
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// database is the one that every instance has; connection strings name it.
const database = "strongroom"

// ErrNotInstalled says that a server is not to be found on this machine.
var ErrNotInstalled = errors.New("not installed")

// lookup finds a program on PATH or, since a user's PATH often lacks them, in the directories given.
func lookup(name string, dirs ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, ErrNotInstalled)
}

// open makes dir, for its owner only, and reserves it. It returns its absolute path.
func open(dir string) (string, *os.File, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	lock, err := reserve(dir)
	return dir, lock, err
}

// reserve locks dir, so that no two servers share one. The lock ends with the file that is returned, and so with this
// process.
func reserve(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another process runs a server in it")
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), lock.Close())
	}
	return lock, nil
}

// secret returns what the file holds, after filling it with a random password if it is not there. The password is
// URL-safe.
func secret(path string) (string, error) {
	kept, err := os.ReadFile(path)
	if err == nil && len(kept) > 0 {
		return string(kept), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	made := rand.Text()
	return made, writeFile(path, made)
}

// writeFile replaces a file at once, readable for its owner only.
func writeFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// firstPort and ports are where free ports are looked for: below the range that systems give to outgoing connections
// (32768 and up on Linux), so that a client that dials a server which is away can neither take its port nor reach itself.
const (
	firstPort = 20000
	ports     = 12000
)

// freePort returns a loopback port that nobody listens on.
func freePort(ctx context.Context) (int, error) {
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(ports))
		if err != nil {
			return 0, err
		}
		port := firstPort + int(n.Int64())
		var config net.ListenConfig
		if listener, err := config.Listen(ctx, "tcp", address(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, firstPort+ports)
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// environment is that of this process without the variables that steer the servers, and with those given.
func environment(with ...string) []string {
	var kept []string
	for _, variable := range os.Environ() {
		steers := false
		for _, prefix := range []string{"RABBITMQ_", "ERL_", "MYSQL_", "MARIADB_", "NOTIFY_SOCKET="} {
			steers = steers || strings.HasPrefix(variable, prefix)
		}
		if !steers {
			kept = append(kept, variable)
		}
	}
	return append(kept, with...)
}

// say writes one line of progress.
func say(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
