package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strongroom-dev/strongroom/local/process"
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
	path := filepath.Join(dir, "lock")
	lock, err := process.Lock(path)
	if errors.Is(err, process.ErrLocked) {
		who := `another "make run"`
		if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
			who += " (process " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, fmt.Errorf("%s is using %s: stop that process, or use another directory with STRONGROOM_DIR=DIRECTORY", who, dir)
	}
	if err != nil {
		return nil, err
	}
	err = lock.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock.Close, nil
}
