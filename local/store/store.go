// Package store starts servers on this machine for the use of the calling program: MariaDB, MySQL, TiDB, mongod,
// FerretDB, RabbitMQ, and the receive adapter of eventing-rabbitmq. Each server has its own data directory and listens
// on free loopback ports. Clients need a random password, which is stored in the server's directory, except for
// FerretDB, which does not support passwords. The kernel kills the servers when the process that started them ends,
// even if that process crashes.
//
// In the Start functions, ctx limits the time for the start but does not stop the server later. dir contains all files
// of the server, including its log, so a server that is started again in the same directory has the same data.
// w receives progress messages, one per line.
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

// lookup returns the path of a program. It searches PATH and then dirs, because the directories where servers are
// installed are often missing from a user's PATH. It returns ErrNotInstalled if it does not find the program.
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

// secret returns the password in the file at path. If the file does not exist or is empty, secret first writes a random
// password to it. The password contains only characters that need no encoding in a URL.
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

// environment returns the environment of this process, followed by the given variables. It omits the variables that
// configure servers, because those variables are meant for other servers on this machine.
func environment(with ...string) []string {
	prefixes := []string{"RABBITMQ_", "ERL_", "MYSQL_", "MARIADB_", "NOTIFY_SOCKET="}
	kept := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
	return append(kept, with...)
}

// say writes a progress message as one line.
func say(w io.Writer, format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
