// Command local is the runner behind `make run`, which runs Strongroom on one machine without a cluster. The runner
// requires Linux, because it relies on the kernel to kill the child processes if the runner crashes.
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

	serving "github.com/strongroom-dev/strongroom/shared/function"
)

// settings contains the environment variables that configure `make run`.
type settings struct {
	// Address is the address at which the system accepts requests from clients. The default is a loopback address,
	// which other machines cannot reach.
	Address string `env:"ADDR" envDefault:"127.0.0.1:8080"`
	// IdleTimeout is how long a function's process may remain idle before the runner stops it. 0 means that the
	// window annotation in the function's manifest applies.
	IdleTimeout time.Duration `env:"IDLE_TIMEOUT"`
	// Dir is the directory that contains the secrets, the built functions, and the data of the servers that the runner
	// starts.
	Dir string `env:"STRONGROOM_DIR" envDefault:".strongroom"`
	// Stores restricts the stores that the runner can use. It is empty, "installed" or "embedded" (see anyStores).
	Stores string `env:"STRONGROOM_STORES"`
	// MySQLDSN, MongoURI and EventsURL are the connection strings of existing servers. The system uses these
	// servers instead of starting its own. The functions have settings with the same names.
	MySQLDSN  serving.Secret `env:"MYSQL_DSN_FILE"`
	MongoURI  serving.Secret `env:"MONGODB_URI_FILE"`
	EventsURL serving.Secret `env:"EVENTS_URL_FILE"`
	// If MySQLAdminDSN is set, setup uses it to create the functions' MySQL account and to migrate the tables.
	// Otherwise, setup migrates the tables as the user in MySQLDSN, so this user needs the privileges to change
	// tables.
	MySQLAdminDSN serving.Secret `env:"MYSQL_ADMIN_DSN_FILE"`
	// If MongoAdminURI is set, setup uses it to create the functions' MongoDB account.
	MongoAdminURI serving.Secret `env:"MONGODB_ADMIN_URI_FILE"`
	// EventsAdminURL is the URL that setup uses to declare queues. If it is not set, setup uses EventsURL, so the
	// user in EventsURL must be allowed to declare queues.
	EventsAdminURL serving.Secret `env:"EVENTS_ADMIN_URL_FILE"`
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
	err = s.start(ctx)
	if err == nil {
		out.print(s.welcome())
		err = s.wait(ctx)
	}
	if ctx.Err() != nil {
		err = nil // ctx is done because the user stopped the system, so the resulting errors are expected
	}
	// Stop the system even if it did not start successfully, because some servers might already be running.
	return errors.Join(err, s.stop())
}

// readSettings reads the settings from environment variables and checks STRONGROOM_STORES.
func readSettings() (settings, error) {
	var cfg settings
	if err := serving.Parse(&cfg); err != nil {
		return settings{}, err
	}
	switch cfg.Stores {
	case anyStores, installedStores, embeddedStores:
		return cfg, nil
	default:
		return settings{}, fmt.Errorf("STRONGROOM_STORES: must be %s or %s, not %q", installedStores, embeddedStores, cfg.Stores)
	}
}
