// Command local is the runner behind `make run`. It runs Strongroom on this machine, without a cluster, from the same
// manifests that a cluster uses. It builds the functions, and it finds or starts the stores. Each function runs as a
// process that starts on the first request and stops when it is idle. All public functions are reachable at one
// address. The runner keeps its data in .strongroom/. It requires Linux, because it relies on the kernel to kill the
// child processes if the runner crashes.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"
)

// settings contains the environment variables that configure `make run`.
type settings struct {
	// Address is the address at which the system accepts requests from clients. The default is a loopback address,
	// which other machines cannot reach.
	Address string `env:"ADDR" envDefault:"127.0.0.1:8080"`
	// IdleTimeout is how long a function's process may remain idle before the runner stops it. 0 means that the window
	// annotation in the function's manifest applies. Without this annotation, the runner waits for 60 s.
	IdleTimeout time.Duration `env:"IDLE_TIMEOUT"`
	// Dir is the directory that contains the secrets, the built functions, and the data of the servers that the runner
	// starts.
	Dir string `env:"STRONGROOM_DIR" envDefault:".strongroom"`
	// Stores restricts the stores that the runner can use. It is empty, "installed" or "embedded" (see anyStores).
	Stores string `env:"STRONGROOM_STORES"`
	// The following settings are the connection strings of existing servers, which the system uses instead of starting
	// its own. If MYSQL_ADMIN_DSN or MONGODB_ADMIN_URI is set, setup creates the functions' account in that store.
	// Without MYSQL_ADMIN_DSN, setup migrates the tables as the user in MYSQL_DSN, so this user needs the privileges to
	// change tables. Without EVENTS_ADMIN_URL, setup declares the queues as the user in EVENTS_URL, so this user needs
	// the permission to declare queues.
	MySQLDSN       string `env:"MYSQL_DSN"`
	MySQLAdminDSN  string `env:"MYSQL_ADMIN_DSN"`
	MongoURI       string `env:"MONGODB_URI"`
	MongoAdminURI  string `env:"MONGODB_ADMIN_URI"`
	EventsURL      string `env:"EVENTS_URL"`
	EventsAdminURL string `env:"EVENTS_ADMIN_URL"`
}

func main() {
	out := &output{w: os.Stdout}
	slog.SetDefault(slog.New(slog.NewJSONHandler(out.lines("run"), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		out.say("run", "stopping; press Ctrl+C again to kill all processes")
		cancel()
		<-signals
		os.Exit(130) // the kernel then kills the child processes
	}()
	if err := run(ctx, out); err != nil {
		out.say("run", "%v", err)
		os.Exit(1)
	}
	out.say("run", "stopped")
}

// run starts the system from the source tree in the working directory, waits until ctx is done, and stops the system.
func run(ctx context.Context, out *output) (err error) {
	cfg, err := readSettings()
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	manifests, err := readManifests(root)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	release, err := openData(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	s, err := newSystem(cfg, manifests, root, dir, out)
	if err != nil {
		return err
	}
	// Call stop even if start failed or ctx was canceled, because some servers might already be running.
	err = s.start(ctx)
	if err == nil {
		out.print(s.welcome())
		err = s.wait(ctx)
	}
	if ctx.Err() != nil {
		err = nil // ctx is done because the user stopped the system, so the resulting errors are expected
	}
	return errors.Join(err, s.stop())
}

// readSettings reads the settings from environment variables and checks STRONGROOM_STORES.
func readSettings() (settings, error) {
	var cfg settings
	if err := env.Parse(&cfg); err != nil {
		return settings{}, err
	}
	switch cfg.Stores {
	case anyStores, installedStores, embeddedStores:
		return cfg, nil
	default:
		return settings{}, fmt.Errorf("STRONGROOM_STORES: must be %s or %s, not %q", installedStores, embeddedStores, cfg.Stores)
	}
}
