// Command ferretdb serves the MongoDB protocol from SQLite files: FerretDB, for machines that have no mongod. It asks for
// no password, so the address must be one that only this machine reaches.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
)

// shutdownTimeout is what requests have to end in after SIGTERM.
const shutdownTimeout = time.Second

func main() {
	addr := flag.String("addr", "", "loopback address to listen on, as 127.0.0.1:PORT")
	dir := flag.String("dir", "", "directory for the databases; made if absent")
	flag.Parse()
	if err := run(*addr, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or SIGINT.
func run(addr, dir string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("-addr: %q is no loopback address", host)
	}
	if dir == "" {
		return fmt.Errorf("-dir: missing")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: addr},
		Logger:    slog.New(lazyHandler{next: slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})}),
		Handler:   "sqlite",
		SQLiteURL: (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: dir + "/"}).EscapedPath()}).String(),
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Run waits for its clients to hang up, and a pool of connections never does. SQLite has what was acknowledged.
	select {
	case err := <-ended:
		return err
	case <-time.After(shutdownTimeout):
		return nil
	}
}
