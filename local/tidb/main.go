// Command tidb runs TiDB, a MySQL-compatible server, on machines without MariaDB and MySQL. It uses TiDB's embedded
// storage, which keeps the data in a directory. TiDB handles concurrent updates correctly, and it acknowledges a commit
// only after the commit is on disk.
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
	addr := flag.String("addr", "", "loopback address to listen on, in the form 127.0.0.1:PORT")
	dir := flag.String("dir", "", "directory for the data; created if it does not exist")
	passwordFile := flag.String("password-file", "", "file that contains the root password")
	database := flag.String("database", "", "database to create if it does not exist")
	flag.Parse()
	if err := run(*addr, *dir, *passwordFile, *database); err != nil {
		fmt.Fprintln(os.Stderr, "tidb:", err)
		os.Exit(1)
	}
}

// run starts TiDB and serves clients until the process receives SIGTERM or SIGINT.
func run(addr, dir, passwordFile, database string) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("-addr: %q is not a loopback address", host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("-addr: %q is not a valid port", portText)
	}
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return fmt.Errorf("-password-file: %w", err)
	}
	if dir == "" {
		return errors.New("-dir must be set")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
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
