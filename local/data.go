package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strongroom-dev/strongroom/local/process"
)

// openData creates the data directory dir if necessary, and locks it so that no other runner uses the same data. The
// directory stays locked until the caller calls release or this process ends.
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
		return nil, fmt.Errorf("%s is using %s: stop that process, or set STRONGROOM_DIR to a different directory", who, dir)
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
