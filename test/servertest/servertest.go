// Package servertest provides real servers, and helpers for tests that use them. The environment names the servers. For
// each server that the environment does not name, the tests of a package start a private server on a free loopback
// port: MariaDB, RabbitMQ or FerretDB. The tests build FerretDB from its nested module, so it is always available. A
// test that needs a server that is not installed is skipped. With CI=true, it fails instead.
//
// MYSQL_ADMIN_DSN, MONGODB_ADMIN_URI, and EVENTS_ADMIN_URL with EVENTS_MANAGEMENT_URL name the servers and their
// administrators. Each test creates its own databases, virtual hosts and users and deletes them when it ends, so that
// several runs can share a server.
//
// If a script started the named servers, STORES is the path of that script. "STORES kill NAME" kills a server and
// "STORES start NAME" starts it again. STORES_DIR/NAME/root is the root directory of that server. Without STORES, a
// test that kills a server starts a private server. With STORES, test the packages one after another (go test -p 1),
// because a test that kills a named server would interrupt the tests of other packages.
package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
)

// StartTimeout bounds the start of a server. It includes the time for the first build of FerretDB or of the adapter.
const StartTimeout = 8 * time.Minute

// dropTimeout limits how long a test waits until its database, virtual host or user is deleted.
const dropTimeout = 30 * time.Second

// servers is the state that all tests of this binary share.
var servers = struct {
	dir     string // contains all servers; short, because the length of a socket path is limited
	mu      sync.Mutex
	stops   []func() error
	missing []string // the packages whose absence caused tests to be skipped
}{}

// The private servers that the tests share. The first test that needs a server starts it. Main stops it after the last
// test.
var (
	privateMariaDB  = sync.OnceValues(func() (*store.MySQL, error) { return start("mariadb", store.StartMySQL) })
	privateRabbitMQ = sync.OnceValues(func() (*store.Rabbit, error) { return start("rabbitmq", store.StartManagedRabbitMQ) })
	privateFerretDB = sync.OnceValues(func() (*store.Mongo, error) { return start("ferretdb", store.StartFerretDB) })
)

// Main runs the tests of a package, stops the private servers and exits. A package whose tests use private servers must
// call Main in TestMain.
func Main(m *testing.M) { os.Exit(run(m)) }

// TempDir returns the directory that contains the private servers. Main deletes the directory after the last test.
func TempDir() string { return servers.dir }

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "strongroom-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "servertest:", err)
		return 1
	}
	servers.dir = dir
	defer func() {
		for _, stop := range slices.Backward(servers.stops) {
			if err := stop(); err != nil {
				fmt.Fprintln(os.Stderr, "servertest: stop server:", err)
				code = 1
			}
		}
		for _, what := range servers.missing {
			fmt.Fprintf(os.Stderr, "servertest: SKIPPED the tests that need %s, which is not installed\n", what)
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "servertest:", err)
		}
	}()
	return m.Run()
}

// stopper is implemented by every server of package store.
type stopper interface{ Stop() error }

// start starts a private server. Main stops the server after the last test.
func start[S stopper](name string, begin func(context.Context, string, io.Writer) (S, error)) (S, error) {
	ctx, cancel := context.WithTimeout(context.Background(), StartTimeout)
	defer cancel()
	server, err := begin(ctx, filepath.Join(servers.dir, name), os.Stderr)
	if err == nil {
		servers.mu.Lock()
		defer servers.mu.Unlock()
		servers.stops = append(servers.stops, server.Stop)
	}
	return server, err
}

// own starts a private server and stops the server when the test ends.
func own[S stopper](t *testing.T, pkg, name string, begin func(context.Context, string, io.Writer) (S, error)) S {
	t.Helper()
	dir, err := os.MkdirTemp(servers.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	server, err := begin(ctx, dir, t.Output())
	Need(t, pkg, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
	})
	return server
}

// Need ends the test if err, the error of starting a server, is not nil. The test is skipped if the server is not
// installed and CI is not "true". Otherwise the test fails. pkg is the name of the package that provides the server.
func Need(t *testing.T, pkg string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotInstalled) && os.Getenv("CI") != "true":
		servers.mu.Lock()
		defer servers.mu.Unlock()
		if !slices.Contains(servers.missing, pkg) {
			servers.missing = append(servers.missing, pkg)
		}
		t.Skipf("SKIPPED: %s is not installed: %v", pkg, err)
	default:
		t.Fatalf("start %s: %v", pkg, err)
	}
}

// Eventually calls ok every 20 ms until ok returns nil. If that takes longer than limit, Eventually fails the test with
// the last error of ok. what is a statement that holds when ok returns nil, such as "the queue is full".
func Eventually(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not true after %v: %v", what, limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// UniqueName returns a unique name for a database, a virtual host or a user. The name has fewer than 32 characters,
// which is MySQL's limit for user names.
func UniqueName() string { return "test_" + strings.ToLower(rand.Text()[:16]) }

// AtEnd calls do when the test ends, and fails the test if do fails.
func AtEnd(t *testing.T, what string, do func(ctx context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), dropTimeout)
		defer cancel()
		if err := do(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// ParseURL parses the URL of a store.
func ParseURL(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("parse the URL of a store: %v", errors.Unwrap(err)) // err contains the URL, which has a password
	}
	return u
}
