// Command ferretdb runs FerretDB, a MongoDB-compatible server, on machines without mongod. FerretDB stores its data in
// SQLite files. It does not check passwords, so the command listens only on a loopback address.
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

// shutdownTimeout is how long the command waits for clients to disconnect after SIGTERM or SIGINT.
const shutdownTimeout = time.Second

func main() {
	addr := flag.String("addr", "", "loopback address to listen on, in the form 127.0.0.1:PORT")
	dir := flag.String("dir", "", "directory for the databases; created if it does not exist")
	flag.Parse()
	if err := run(*addr, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

// run starts FerretDB and serves clients until the process receives SIGTERM or SIGINT.
func run(addr, dir string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("-addr: %q is not a loopback address", host)
	}
	if dir == "" {
		return fmt.Errorf("-dir: must be set")
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
	// Run returns only when all clients have disconnected, but a client with a connection pool stays connected.
	// Therefore, do not wait longer than shutdownTimeout. No acknowledged write is lost, because SQLite has already
	// stored it.
	select {
	case err := <-ended:
		return err
	case <-time.After(shutdownTimeout):
		return nil
	}
}
