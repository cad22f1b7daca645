// Package integration tests the functions and the packages of Strongroom against real servers: the servers that the
// environment names (see servers_test.go), or private MariaDB, RabbitMQ and FerretDB servers on free loopback ports.
// Events travel through the real receive adapter of eventing-rabbitmq.
//
// A test that needs a server that is not installed is skipped. With CI=true it fails. FerretDB is always available: the
// tests build it from its nested module.
package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
)

// startTimeout bounds the start of a server. It includes the time for the first build of FerretDB or of the adapter.
const startTimeout = 8 * time.Minute

// servers is the state that all tests of this binary share.
var servers = struct {
	dir     string // contains all servers and binaries; short, because the length of a socket path is limited
	mu      sync.Mutex
	stops   []func() error
	missing []string // the packages whose absence caused tests to be skipped
}{}

// The private servers that the tests share. The first test that needs a server starts it. TestMain stops it after the
// last test.
var (
	privateMariaDB  = sync.OnceValues(func() (*store.MySQL, error) { return start("mariadb", store.StartMySQL) })
	privateRabbitMQ = sync.OnceValues(func() (*store.Rabbit, error) { return start("rabbitmq", store.StartManagedRabbitMQ) })
	privateFerretDB = sync.OnceValues(func() (*store.Mongo, error) { return start("ferretdb", store.StartFerretDB) })
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "strongroom-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	servers.dir = dir
	defer func() {
		for _, stop := range slices.Backward(servers.stops) {
			if err := stop(); err != nil {
				fmt.Fprintln(os.Stderr, "integration: stop server:", err)
				code = 1
			}
		}
		for _, what := range servers.missing {
			fmt.Fprintf(os.Stderr, "integration: SKIPPED the tests that need %s, which is not installed\n", what)
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "integration:", err)
		}
	}()
	return m.Run()
}

// stopper is implemented by every server of package store.
type stopper interface{ Stop() error }

// start starts a private server. TestMain stops the server after the last test.
func start[S stopper](name string, begin func(context.Context, string, io.Writer) (S, error)) (S, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
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
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := begin(ctx, dir, t.Output())
	need(t, pkg, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
	})
	return server
}

// need ends the test if err, the error of starting a server, is not nil. The test is skipped if the server is not
// installed and CI is not "true". Otherwise the test fails. pkg is the name of the package that provides the server.
func need(t *testing.T, pkg string, err error) {
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

// eventually calls ok every 20 ms until ok returns nil. If that takes longer than limit, eventually fails the test with
// the last error of ok. what is a statement that holds when ok returns nil, such as "the queue is full".
func eventually(t *testing.T, limit time.Duration, what string, ok func() error) {
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
