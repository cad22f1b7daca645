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
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/problem"
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

// drainTimeout bounds the wait for requests that run when the system is stopped.
const drainTimeout = 10 * time.Second

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
	if err := run(ctx, out); err != nil && !errors.Is(err, context.Canceled) {
		out.say("run", "%v", err)
		os.Exit(1)
	}
	out.say("run", "stopped")
}

// run runs the system until ctx ends.
func run(ctx context.Context, out *output) (err error) {
	var cfg settings
	if err := env.Parse(&cfg); err != nil {
		return err
	}
	switch cfg.Stores {
	case anyStores, installedStores, embeddedStores:
	default:
		return fmt.Errorf("STRONGROOM_STORES: want %s or %s, not %q", installedStores, embeddedStores, cfg.Stores)
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	m, err := readManifests(root)
	if err != nil {
		return err
	}
	if m.source == nil {
		return errors.New("knative/ has no RabbitmqSource: its sink is where events go")
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
	front, err := serve(cfg.Address)
	if err != nil {
		return err
	}
	defer front.close()
	sink, err := serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer sink.close()
	kept, err := keepSecrets(filepath.Join(dir, "secrets"))
	if err != nil {
		return err
	}
	s := &stores{dir: dir, kept: kept, out: out}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, s.stop())
	}()
	bin := filepath.Join(dir, "bin")
	group, starting := errgroup.WithContext(ctx)
	group.Go(func() error { return buildFunctions(starting, root, bin, m.packages(), out) })
	group.Go(func() error { return s.start(starting, cfg, sink.url()) })
	if err := group.Wait(); err != nil {
		return err
	}
	environments := resolver{
		configMaps: m.configMaps, secrets: kept.kubernetes(s.endpoints), mounts: filepath.Join(dir, "mounts"), lookup: os.LookupEnv,
	}
	functions, err := newFunctions(m, environments, bin, cfg.IdleTimeout, out)
	if err != nil {
		return err
	}
	target := functions[m.source.Spec.Sink.Ref.Name]
	if target == nil {
		return fmt.Errorf("the sink of the RabbitmqSource, %q, is no function", m.source.Spec.Sink.Ref.Name)
	}
	if err := runSetup(ctx, m, environments, bin, out); err != nil {
		return err
	}
	defer func() { stopFunctions(functions) }()
	sink.handle(target)
	if err := s.deliver(ctx, m.source, sink.url()); err != nil {
		return err
	}
	s.supervise(ctx)
	front.handle(router{functions})
	out.print(welcome(cfg.Address, functions))
	select {
	case <-ctx.Done():
	case err = <-front.failed:
	case err = <-sink.failed:
	}
	cancel()
	// In this order: no new requests from outside, no new events, then the functions, then what they need.
	front.drain()
	err = errors.Join(err, s.stopDelivery())
	sink.drain()
	return err
}

// server is a listener that answers 503 until it has a handler.
type server struct {
	http    *http.Server
	address string
	handler atomic.Pointer[http.Handler]
	failed  chan error
}

// serve listens at address.
func serve(address string) (*server, error) {
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("ADDR: another program listens on %s: stop it, or take another address, such as ADDR=127.0.0.1:9000", address)
	}
	if err != nil {
		return nil, fmt.Errorf("ADDR: %w", err)
	}
	s := &server{address: listener.Addr().String(), failed: make(chan error, 1)}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          quietLog(),
	}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
	return s, nil
}

// handle makes h answer from now on.
func (s *server) handle(h http.Handler) { s.handler.Store(&h) }

// ServeHTTP passes the request to the handler, if there is one yet.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	fail(w, r, problem.Unavailable.With("the system is starting"))
}

func (s *server) url() string { return "http://" + s.address }

// drain stops listening and waits, for a while, until the running requests have been answered.
func (s *server) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.close()
	}
}

// close cuts all connections.
func (s *server) close() { _ = s.http.Close() } // of listeners that have nothing to lose
