package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/local/store"
)

// These are the values of the setting STRONGROOM_STORES, which is intended for tests. With installedStores and
// embeddedStores, the runner ignores the servers in the settings MYSQL_DSN_FILE, MONGODB_URI_FILE and EVENTS_URL_FILE.
const (
	// anyStores is the default. For each store, the runner uses the server from the settings, an installed server, or
	// the embedded store, in this order of preference.
	anyStores = ""
	// installedStores makes the runner start only servers that are installed on this machine. It is an error if no
	// MySQL server or no RabbitMQ server is installed. If mongod is not installed, the runner still starts the embedded
	// FerretDB, because Linux distributions do not package mongod.
	installedStores = "installed"
	// embeddedStores makes the runner start only the embedded TiDB and FerretDB. The system then uses direct HTTP
	// requests instead of RabbitMQ.
	embeddedStores = "embedded"
)

// endpoints contains the stores' addresses, in the same format as in a cluster's Secrets.
type endpoints struct {
	// mysql is the MySQL connection string for the functions. mysqlAdmin is the administrator's MySQL connection
	// string, with which setup creates the functions' account. mysqlAdmin is empty if setup creates no account.
	mysql, mysqlAdmin string
	// mongodb is the MongoDB connection string for the functions. mongodbAdmin is the administrator's MongoDB
	// connection string, with which setup creates the functions' account. mongodbAdmin is empty if setup creates no
	// account.
	mongodb, mongodbAdmin string
	// events is the URL to which the functions publish events. eventsAdmin is the URL with which setup declares
	// exchanges and queues. eventsAdmin is empty if the system uses no RabbitMQ server.
	events, eventsAdmin string
}

// stores finds or starts a MySQL, a MongoDB and a RabbitMQ server, and manages the servers that it starts.
type stores struct {
	endpoints
	// dir is the data directory. It contains a subdirectory for each server that the runner starts.
	dir  string
	kept keptSecrets
	out  *output

	// The builds mutex is locked during a build. Sequential builds take less time than concurrent builds, because
	// a package that two programs share is compiled only once.
	builds sync.Mutex

	mu       sync.Mutex
	private  []*store.Server
	adapters []*store.Server
	watch    sync.WaitGroup
}

// start finds or starts the servers concurrently. The caller must call stop even if start returns an error, because
// some servers might be running.
func (s *stores) start(ctx context.Context, cfg settings, sink string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startMySQL(ctx, cfg) })
	group.Go(func() error { return s.startMongoDB(ctx, cfg) })
	group.Go(func() error { return s.startEvents(ctx, cfg, sink) })
	return group.Wait()
}

func (s *stores) startMySQL(ctx context.Context, cfg settings) error {
	if cfg.MySQLDSN != "" && cfg.Stores == anyStores {
		s.mysql, s.mysqlAdmin = string(cfg.MySQLDSN), string(cfg.MySQLAdminDSN)
		s.out.say("mysql", "using the server from MYSQL_DSN_FILE; you are responsible for the durability of its data")
		return nil
	}
	private, err := s.privateMySQL(ctx, cfg)
	if err != nil {
		return err
	}
	s.add(private.Server)
	s.mysqlAdmin = private.AdminDSN
	if s.mysql, err = s.kept.runtimeDSN(private.AdminDSN); err != nil {
		return err
	}
	if private.Name() == "tidb" {
		s.out.say("mysql", "using the embedded TiDB: it is durable and handles concurrent updates correctly, but it is not MySQL "+
			"and uses up to 800 MB of memory")
		return nil
	}
	s.out.say("mysql", "using a private %s: its data is only on this machine, without replicas or backups", private.Name())
	return nil
}

// privateMySQL starts an installed MariaDB or MySQL server. If neither is installed and MariaDB cannot be installed,
// it starts the embedded TiDB. The setting in cfg.Stores can restrict this choice.
func (s *stores) privateMySQL(ctx context.Context, cfg settings) (*store.MySQL, error) {
	log := s.out.lines("mysql")
	if cfg.Stores == embeddedStores {
		return s.startTiDB(ctx, log)
	}
	// Use TiDB if only TiDB has data from an earlier run, because an installed server cannot read the accounts in
	// TiDB's files.
	if cfg.Stores == anyStores && s.has("tidb") && !s.has("mariadbd") && !s.has("mysqld") {
		s.out.say("mysql", "starting the embedded TiDB instead of an installed server, because TiDB already contains the accounts")
		return s.startTiDB(ctx, log)
	}
	install, err := store.FindMySQL(ctx)
	if errors.Is(err, store.ErrNotInstalled) && store.CanInstall() {
		s.out.say("mysql", "neither mariadbd nor mysqld is installed: installing MariaDB")
		if err := store.Install(ctx, log, store.MariaDBPackages...); err != nil {
			s.out.say("mysql", "could not install MariaDB: %v", err)
		}
		install, err = store.FindMySQL(ctx)
	}
	switch {
	case err == nil:
		return store.StartMySQL(ctx, filepath.Join(s.dir, install.Kind), log)
	case errors.Is(err, store.ErrNotInstalled) && cfg.Stores != installedStores:
		s.out.say("mysql", "neither mariadbd nor mysqld is installed: using the embedded TiDB; install MariaDB to avoid building TiDB")
		return s.startTiDB(ctx, log)
	default:
		return nil, err
	}
}

func (s *stores) startTiDB(ctx context.Context, log io.Writer) (*store.MySQL, error) {
	if err := s.build(ctx, "tidb", log); err != nil {
		return nil, err
	}
	return store.StartTiDB(ctx, filepath.Join(s.dir, "tidb"), log)
}

func (s *stores) startMongoDB(ctx context.Context, cfg settings) error {
	if cfg.MongoURI != "" && cfg.Stores == anyStores {
		s.mongodb, s.mongodbAdmin = string(cfg.MongoURI), string(cfg.MongoAdminURI)
		s.out.say("mongodb", "using the server from MONGODB_URI_FILE; you are responsible for the durability of its data")
		return nil
	}
	log := s.out.lines("mongodb")
	// Use FerretDB if only FerretDB has data from an earlier run, because mongod cannot read FerretDB's files.
	embedded := cfg.Stores == embeddedStores || cfg.Stores == anyStores && s.has("ferretdb") && !s.has("mongod")
	if !embedded {
		_, err := store.FindMongod()
		if err == nil {
			private, err := store.StartMongod(ctx, filepath.Join(s.dir, "mongod"), log)
			if err != nil {
				return err
			}
			s.add(private.Server)
			s.mongodbAdmin = private.URI
			s.out.say("mongodb", "using a private mongod: its data is only on this machine, without replicas or backups")
			s.mongodb, err = s.kept.runtimeURI(private.URI)
			return err
		}
		if !errors.Is(err, store.ErrNotInstalled) {
			return err
		}
	}
	if err := s.build(ctx, "ferretdb", log); err != nil {
		return err
	}
	private, err := store.StartFerretDB(ctx, filepath.Join(s.dir, "ferretdb"), log)
	if err != nil {
		return err
	}
	s.add(private.Server)
	s.mongodb = private.URI
	s.out.say("mongodb", "using the embedded FerretDB on SQLite: it is durable, but it is slow and has no transactions and no atomic updates; "+
		"it has no accounts either, so any program on this machine can read the uploaded files")
	return nil
}

// startEvents finds or starts a RabbitMQ server. If EVENTS_URL_FILE is an HTTP URL, the functions send their events to that
// URL instead. If no RabbitMQ server is available, they send their events directly to the sink URL.
func (s *stores) startEvents(ctx context.Context, cfg settings, sink string) error {
	named := string(cfg.EventsURL)
	if cfg.Stores != anyStores {
		named = ""
	}
	switch {
	case strings.HasPrefix(named, "http://"), strings.HasPrefix(named, "https://"):
		s.events = named
		s.out.say("events", "using the sink from EVENTS_URL_FILE, which must forward the events to %s; if the sink rejects an event, "+
			"the response to the upload has status 503", sink)
		return nil
	case named != "":
		// The error does not contain the URL, because the URL can contain a password.
		parsed, err := url.Parse(named)
		if err != nil || parsed.Scheme != "amqp" && parsed.Scheme != "amqps" || parsed.Host == "" {
			return errors.New("EVENTS_URL_FILE: must be amqp://USER:PASSWORD@HOST:PORT or http://HOST")
		}
		s.events, s.eventsAdmin = named, cmp.Or(string(cfg.EventsAdminURL), named)
		s.out.say("events", "using the RabbitMQ server from EVENTS_URL_FILE; you are responsible for the durability of its data")
		return s.build(ctx, "adapter", s.out.lines("events"))
	}
	if cfg.Stores != embeddedStores {
		_, err := store.FindRabbitMQ()
		if err == nil {
			return s.privateRabbitMQ(ctx)
		}
		if !errors.Is(err, store.ErrNotInstalled) || cfg.Stores == installedStores {
			return err
		}
	}
	s.events = sink
	s.out.say("events", "using no RabbitMQ server: events go directly to the record function over HTTP, without a queue; if an event cannot be delivered, "+
		"the response to the upload has status 503 and the file is not in the catalog")
	return nil
}

func (s *stores) privateRabbitMQ(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.build(ctx, "adapter", s.out.lines("events")) })
	group.Go(func() error {
		private, err := store.StartRabbitMQ(ctx, filepath.Join(s.dir, "rabbitmq"), s.out.lines("events"))
		if err != nil {
			return err
		}
		s.add(private.Server)
		s.events, s.eventsAdmin = private.URL, private.URL
		s.out.say("events", "using a private RabbitMQ server: its events are only on this machine, on a single node, and all programs use the same account")
		return nil
	})
	return group.Wait()
}

// has reports whether a server of the given kind has a data directory from an earlier run.
func (s *stores) has(kind string) bool {
	_, err := os.Stat(filepath.Join(s.dir, kind))
	return err == nil
}

// build calls store.Build for the program called name. It first waits until no other build is running.
func (s *stores) build(ctx context.Context, name string, log io.Writer) error {
	s.builds.Lock()
	defer s.builds.Unlock()
	_, err := store.Build(ctx, name, log)
	return err
}

// deliver starts a receive adapter, which sends the events in the RabbitmqSource's queue to the function whose URL is
// sink. The queue must already exist.
func (s *stores) deliver(ctx context.Context, source rabbitmqSource, sink string) error {
	if s.eventsAdmin == "" {
		return nil // the system uses no RabbitMQ server
	}
	queue, delivery := source.Spec.RabbitmqResourcesConfig, source.Spec.Delivery
	adapter, err := store.StartAdapter(ctx, store.AdapterConfig{
		Dir:       filepath.Join(s.dir, "adapter", source.Metadata.Name),
		RabbitURL: s.events, Queue: queue.QueueName, Sink: sink, Parallelism: queue.Parallelism,
		Retry: delivery.Retry, BackoffPolicy: delivery.BackoffPolicy, BackoffDelay: delivery.BackoffDelay,
		Name: source.Metadata.Name, Namespace: source.Metadata.Namespace,
	})
	if err != nil {
		return err
	}
	s.adapters = append(s.adapters, adapter)
	return nil
}

func (s *stores) add(server *store.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.private = append(s.private, server)
}

// supervise restarts the runner's own servers and receive adapters if they end unexpectedly. It works in the background
// until ctx is done.
func (s *stores) supervise(ctx context.Context) {
	for _, server := range slices.Concat(s.private, s.adapters) {
		s.watch.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-server.Done():
				}
				s.restart(ctx, server)
			}
		})
	}
}

// restart restarts a server that has ended. It keeps retrying until the server is ready or ctx is done.
func (s *stores) restart(ctx context.Context, server *store.Server) {
	for ctx.Err() == nil {
		s.out.say("run", "%s ended unexpectedly: restarting it", server.Name())
		err := server.Restart(ctx)
		if err == nil {
			s.out.say("run", "%s is running again", server.Name())
			return
		}
		reason, _, _ := strings.Cut(err.Error(), "\n") // the following lines contain the end of the server's log
		s.out.say("run", "%s", reason)
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

// restartPause is the interval between two attempts to restart a server. Without this interval, attempts to restart a
// server that cannot start would use a whole processor core.
const restartPause = 2 * time.Second

// stopDelivery kills the receive adapters, so that RabbitMQ later redelivers the events that they were processing.
func (s *stores) stopDelivery() error {
	var errs []error
	for _, adapter := range s.adapters {
		// Do not send SIGTERM, because the adapter would then reject its events. RabbitMQ would move them to the
		// dead-letter queue, where they would stay until an operator redrives them.
		errs = append(errs, adapter.Kill())
	}
	return errors.Join(errs...)
}

// stop stops the servers that the runner started. The caller must first cancel the context passed to supervise,
// because stop would otherwise wait forever.
func (s *stores) stop() error {
	s.watch.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(s.private))
	var all sync.WaitGroup
	for i, server := range s.private {
		all.Go(func() { errs[i] = server.Stop() })
	}
	all.Wait()
	return errors.Join(errs...)
}
