// Command local is `make run`: it runs Strongroom on this machine without a cluster, from the manifests that Knative
// gets. It builds the functions, finds or starts the stores, and runs each function as a process that is started by its
// first request and stopped when idle, behind one address. Everything it keeps is under .strongroom/. It wants Linux:
// the kernel ends the processes with it.
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

// settings are what a developer may change.
type settings struct {
	// Address is where the system answers. Only this machine reaches it, unless it names another of its addresses.
	Address string `env:"ADDR" envDefault:"127.0.0.1:8080"`
	// IdleTimeout is how long a process without requests lives; 0 leaves it to the manifest's window, 60 s by default.
	IdleTimeout time.Duration `env:"IDLE_TIMEOUT"`
	// Dir is where everything is kept.
	Dir string `env:"STRONGROOM_DIR" envDefault:".strongroom"`
	// Stores is empty, installed or embedded: see anyStores.
	Stores string `env:"STRONGROOM_STORES"`
	// The stores to take instead of private ones. An administrator's address is needed only if setup is to make the
	// functions' account there; the functions' own must then name an account that may change tables, or declare queues.
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
		out.say("run", "stopping; once more kills")
		cancel()
		<-signals
		os.Exit(130) // the kernel kills the children
	}()
	if err := run(ctx, out); err != nil {
		out.say("run", "%v", err)
		os.Exit(1)
	}
	out.say("run", "stopped")
}

// run runs the system in the working directory until ctx ends.
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
	// Whatever has been started when something fails, or when ctx ends in the middle of it, is stopped.
	err = s.start(ctx)
	if err == nil {
		out.print(s.welcome())
		err = s.wait(ctx)
	}
	if ctx.Err() != nil {
		err = nil // that is what ended it
	}
	return errors.Join(err, s.stop())
}

// readSettings reads them from the environment.
func readSettings() (settings, error) {
	var cfg settings
	if err := env.Parse(&cfg); err != nil {
		return settings{}, err
	}
	switch cfg.Stores {
	case anyStores, installedStores, embeddedStores:
		return cfg, nil
	default:
		return settings{}, fmt.Errorf("STRONGROOM_STORES: want %s or %s, not %q", installedStores, embeddedStores, cfg.Stores)
	}
}
