// Package store starts servers, such as MariaDB, mongod and RabbitMQ, as child processes on this machine. Every
// server except FerretDB requires clients to sign in with a random password, which is stored in the server's data
// directory.
package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strongroom-dev/strongroom/local/process"
)

// database is the database name in the connection strings.
const database = "strongroom"

// ErrNotInstalled reports that a server is not installed on this machine.
var ErrNotInstalled = errors.New("not installed")

// lookup searches for a program in PATH and then in dirs, which are often missing from a user's PATH. The error
// wraps ErrNotInstalled if the program is not found.
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

// reserve locks dir, so that two servers cannot use the same directory.
func reserve(dir string) (*os.File, error) { return process.Lock(filepath.Join(dir, "lock")) }

// secret returns the password in the file at path. If the file is missing or empty, secret first writes a random
// password that needs no encoding in a URL.
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

// writeFile atomically replaces the file at path. Only the file's owner can read it.
func writeFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// environment returns this process's environment and the given variables. It omits inherited server settings, such
// as variables that begin with MYSQL_, because they are meant for other servers.
func environment(with ...string) []string {
	prefixes := []string{"RABBITMQ_", "ERL_", "MYSQL_", "MARIADB_", "NOTIFY_SOCKET="}
	kept := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
	return append(kept, with...)
}

// say writes a progress message as one line.
func say(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
