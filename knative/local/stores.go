package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/knative/local/store"
)

// Values of STRONGROOM_STORES, which are for tests.
const (
	// anyStores takes, for each store, the first of: named, installed, embedded.
	anyStores = ""
	// installedStores takes private instances of installed servers, and fails where there is no MySQL or RabbitMQ; for
	// MongoDB, which distributions don't package, FerretDB may stand in.
	installedStores = "installed"
	// embeddedStores takes what Strongroom brings along, whatever is named or installed.
	embeddedStores = "embedded"
)

// endpoints are the addresses of the stores, as the Secrets of a cluster hold them.
type endpoints struct {
	// mysql and mongodb are those of the functions. The administrator's are for setup, which makes the functions'
	// accounts with them, and empty where it is to make none.
	mysql, mysqlAdmin     string
	mongodb, mongodbAdmin string
	// events is where upload publishes, eventsAdmin where setup declares the topology; empty without a RabbitMQ.
	events, eventsAdmin string
}

// stores are those that the runner found or started.
type stores struct {
	endpoints
	// dir is where private ones keep their data.
	dir  string
	kept keptSecrets
	out  *output

	// builds is held by whoever builds something: one after another takes less time than side by side, since what two
	// programs have in common is then compiled once.
	builds sync.Mutex

	mu      sync.Mutex
	private []privateStore
	adapter *store.Server
	watch   sync.WaitGroup
}

type privateStore struct {
	name   string
	server *store.Server
}

// start finds or starts the three stores, side by side. sink is where events go without a RabbitMQ. Whatever it
// returns, stop must be called.
func (s *stores) start(ctx context.Context, cfg settings, sink string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startMySQL(ctx, cfg) })
	group.Go(func() error { return s.startMongoDB(ctx, cfg) })
	group.Go(func() error { return s.startEvents(ctx, cfg, sink) })
	return group.Wait()
}

func (s *stores) startMySQL(ctx context.Context, cfg settings) error {
	if cfg.MySQLDSN != "" && cfg.Stores == anyStores {
		s.mysql, s.mysqlAdmin = cfg.MySQLDSN, cfg.MySQLAdminDSN
		s.out.say("mysql", "took the server that MYSQL_DSN names; what it keeps is its own affair")
		return nil
	}
	private, err := s.privateMySQL(ctx, cfg)
	if err != nil {
		return err
	}
	s.add(private.Kind, private.Server)
	s.mysqlAdmin = private.AdminDSN
	if s.mysql, err = s.kept.runtimeDSN(private.AdminDSN); err != nil {
		return err
	}
	switch private.Kind {
	case "tidb":
		s.out.say("mysql", "took the embedded TiDB: keeps its data and counts right, but is not MySQL, and takes up to 800 MB of memory")
	default:
		s.out.say("mysql", "took a private %s: keeps its data on this machine only, no replica and no backup", private.Kind)
	}
	return nil
}

// privateMySQL starts an installed server, one that it installs, or the embedded one. Data that is in the embedded one
// stays there: no server reads the files of another, and accounts must not seem lost because one was installed meanwhile.
func (s *stores) privateMySQL(ctx context.Context, cfg settings) (*store.MySQL, error) {
	log := s.out.lines("mysql")
	if cfg.Stores == embeddedStores {
		return s.startTiDB(ctx, log)
	}
	if cfg.Stores == anyStores && s.has("tidb") && !s.has("mariadbd") && !s.has("mysqld") {
		s.out.say("mysql", "the accounts are in the embedded TiDB already, so that is what serves them, whatever is installed")
		return s.startTiDB(ctx, log)
	}
	install, err := store.FindMySQL(ctx)
	if errors.Is(err, store.ErrNotInstalled) && store.CanInstall() {
		s.out.say("mysql", "no mariadbd or mysqld is installed, but can be")
		if err := store.InstallMariaDB(ctx, log); err != nil {
			s.out.say("mysql", "that failed: %v", err)
		}
		install, err = store.FindMySQL(ctx)
	}
	switch {
	case err == nil:
		return store.StartMySQL(ctx, filepath.Join(s.dir, install.Kind), log)
	case errors.Is(err, store.ErrNotInstalled) && cfg.Stores != installedStores:
		s.out.say("mysql", "no mariadbd or mysqld is installed: taking the embedded TiDB; installing MariaDB would spare its build")
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
		s.mongodb, s.mongodbAdmin = cfg.MongoURI, cfg.MongoAdminURI
		s.out.say("mongodb", "took the server that MONGODB_URI names; what it keeps is its own affair")
		return nil
	}
	log := s.out.lines("mongodb")
	embedded := cfg.Stores == embeddedStores || cfg.Stores == anyStores && s.has("ferretdb") && !s.has("mongod") // as for MySQL
	if !embedded {
		_, err := store.FindMongod()
		if err == nil {
			private, err := store.StartMongod(ctx, filepath.Join(s.dir, "mongod"), log)
			if err != nil {
				return err
			}
			s.add(private.Kind, private.Server)
			s.mongodbAdmin = private.URI
			s.out.say("mongodb", "took a private mongod: keeps its data on this machine only, no replica and no backup")
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
	s.add(private.Kind, private.Server)
	s.mongodb = private.URI
	s.out.say("mongodb", "took the embedded FerretDB on SQLite: keeps its data, but knows no accounts, no transactions and no "+
		"atomic updates, and is slow: any program on this machine can read the files in it")
	return nil
}

func (s *stores) startEvents(ctx context.Context, cfg settings, sink string) error {
	named := cfg.EventsURL
	if cfg.Stores != anyStores {
		named = ""
	}
	switch {
	case strings.HasPrefix(named, "http://"), strings.HasPrefix(named, "https://"):
		s.events = named
		s.out.say("events", "took the sink that EVENTS_URL names, which must pass the events on to %s; a stored file whose event "+
			"it refuses is answered 503", sink)
		return nil
	case named != "":
		if _, err := connection(named); err != nil {
			return err
		}
		s.events, s.eventsAdmin = named, named
		if cfg.EventsAdminURL != "" {
			s.eventsAdmin = cfg.EventsAdminURL
		}
		s.out.say("events", "took the RabbitMQ that EVENTS_URL names; what it keeps is its own affair")
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
	s.out.say("events", "no RabbitMQ: events go straight to record over HTTP, and nothing keeps them: a stored file whose event "+
		"can not be delivered is answered 503, and stays out of the catalogue")
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
		s.add(private.Kind, private.Server)
		s.events, s.eventsAdmin = private.URL, private.URL
		s.out.say("events", "took a private RabbitMQ: keeps events on this machine only, in one node and under one account")
		return nil
	})
	return group.Wait()
}

// has tells whether there is data of a private store of that kind.
func (s *stores) has(kind string) bool {
	_, err := os.Stat(filepath.Join(s.dir, kind))
	return err == nil
}

// build builds a program of package store, in its turn, if it is not up to date.
func (s *stores) build(ctx context.Context, name string, log io.Writer) error {
	s.builds.Lock()
	defer s.builds.Unlock()
	_, err := store.Build(ctx, name, log)
	return err
}

// deliver starts the receive adapter, which takes the events from the queue that source names to sink. It does nothing
// without a RabbitMQ. The queue must have been declared.
func (s *stores) deliver(ctx context.Context, source *rabbitmqSource, sink string) error {
	if s.eventsAdmin == "" {
		return nil
	}
	config, err := connection(s.events)
	if err != nil {
		return err
	}
	config.Dir = filepath.Join(s.dir, "adapter")
	config.Queue = source.Spec.RabbitmqResourcesConfig.QueueName
	config.Parallelism = source.Spec.RabbitmqResourcesConfig.Parallelism
	config.Retry = source.Spec.Delivery.Retry
	config.BackoffPolicy = source.Spec.Delivery.BackoffPolicy
	config.BackoffDelay = source.Spec.Delivery.BackoffDelay
	config.Sink = sink
	config.Name, config.Namespace = source.Metadata.Name, source.Metadata.Namespace
	s.adapter, err = store.StartAdapter(ctx, config)
	return err
}

// connection reads an amqp URL.
func connection(events string) (store.AdapterConfig, error) {
	parsed, err := url.Parse(events)
	if err != nil || parsed.Scheme != "amqp" && parsed.Scheme != "amqps" || parsed.Host == "" {
		return store.AdapterConfig{}, errors.New("EVENTS_URL: want amqp://USER:PASSWORD@HOST:PORT or http://HOST")
	}
	return store.AdapterConfig{RabbitURL: events}, nil
}

func (s *stores) add(name string, server *store.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.private = append(s.private, privateStore{name, server})
}

// supervise restarts private servers, and the adapter, that end by themselves, until ctx ends.
func (s *stores) supervise(ctx context.Context) {
	watched := s.private
	if s.adapter != nil {
		watched = append(watched, privateStore{"the receive adapter", s.adapter})
	}
	for _, p := range watched {
		s.watch.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-p.server.Done():
				}
				s.restart(ctx, p)
			}
		})
	}
}

// restart tries until the server answers or ctx ends.
func (s *stores) restart(ctx context.Context, p privateStore) {
	for ctx.Err() == nil {
		s.out.say("run", "%s has ended by itself: starting it again", p.name)
		err := p.server.Restart(ctx)
		if err == nil {
			s.out.say("run", "%s is back", p.name)
			return
		}
		reason, _, _ := strings.Cut(err.Error(), "\n") // the rest is the end of its log
		s.out.say("run", "%s", reason)
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

// restartPause keeps a server that can't start from taking a whole processor.
const restartPause = 2 * time.Second

// stopDelivery ends the adapter, by SIGKILL: at SIGTERM it gives back what it has in flight as undeliverable, and those
// events would wait among the dead letters until somebody redrives them. When it is killed RabbitMQ delivers them anew.
func (s *stores) stopDelivery() error {
	if s.adapter == nil {
		return nil
	}
	return s.adapter.Kill()
}

// stop ends the private servers. The context given to supervise must have ended.
func (s *stores) stop() error {
	s.watch.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(s.private))
	var all sync.WaitGroup
	for i, p := range s.private {
		all.Go(func() {
			if err := p.server.Stop(); err != nil {
				errs[i] = fmt.Errorf("stop %s: %w", p.name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
