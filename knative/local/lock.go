package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// openData creates the data directory dir if it does not exist, and restricts access to its owner. It also locks dir,
// so that no other runner uses the same data. The lock is held until release is called or this process ends.
func openData(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // the Makefile might have created dir with broader permissions
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		who := `another "make run"`
		if pid, err := io.ReadAll(lock); err == nil && len(pid) > 0 {
			who += " (process " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fmt.Errorf("%s is using %s: stop that process, or use another directory with STRONGROOM_DIR=DIRECTORY", who, dir)
	}
	if err := errors.Join(lock.Truncate(0), writePid(lock)); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock.Close, nil
}

func writePid(lock *os.File) error {
	_, err := fmt.Fprintln(lock, os.Getpid())
	return err
}
