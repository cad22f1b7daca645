// Command tidb serves the MySQL protocol from a directory: TiDB with its embedded storage, for machines that have no
// MariaDB and no MySQL. It counts right under concurrency, and what it has acknowledged is on disk.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	addr := flag.String("addr", "", "loopback address to listen on, as 127.0.0.1:PORT")
	dir := flag.String("dir", "", "directory for the data; made if absent")
	passwordFile := flag.String("password-file", "", "file that holds root's password")
	database := flag.String("database", "", "database to make if it is absent")
	flag.Parse()
	if err := run(*addr, *dir, *passwordFile, *database); err != nil {
		fmt.Fprintln(os.Stderr, "tidb:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or SIGINT.
func run(addr, dir, passwordFile, database string) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("-addr: %q is no loopback address", host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("-addr: %q is no port", portText)
	}
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return fmt.Errorf("-password-file: %w", err)
	}
	lock, err := reserve(dir)
	if err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	defer lock.Close()
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	configure(host, uint(port), dir)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	db, err := open(dir)
	if err != nil {
		return err
	}
	defer db.close()
	if err := db.prepare(strings.TrimSpace(string(password)), database); err != nil {
		return err
	}
	return db.serve(stop)
}

// reserve makes dir and locks it: two processes in one directory would destroy its data. The lock ends with the file.
func reserve(dir string) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("missing")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another process serves %s", dir)
		}
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}
