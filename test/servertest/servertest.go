// Package servertest provides real servers for tests, and helpers that use the servers. MYSQL_ADMIN_DSN,
// MONGODB_ADMIN_URI, EVENTS_ADMIN_URL and EVENTS_MANAGEMENT_URL specify existing servers. If the variables for a server
// are not set, the tests start a private server (MariaDB, FerretDB or RabbitMQ). A test that kills a server also starts
// a private server, unless STORES is set (see namedServer).
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
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// StartTimeout is the time limit for starting a server. It includes the time for the first build of a server that is
// built from Go modules, such as FerretDB, or of the receive adapter.
const StartTimeout = 8 * time.Minute

// dropTimeout is the time limit for each cleanup operation, such as the deletion of a test's database or user.
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

// TempDir returns the directory for the files of the private servers. Main deletes the directory after the last test.
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

// Need ends the test if err is not nil. err is the result of starting a server. If the server is not installed and CI
// is not "true", the test is skipped. Otherwise, the test fails.
func Need(t *testing.T, pkg string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotInstalled) && os.Getenv("CI") != "true":
		Skip(t, pkg, err)
	default:
		t.Fatalf("start %s: %v", pkg, err)
	}
}

// Skip skips the test because a package is not installed. Main prints the names of these packages after the last test.
func Skip(t *testing.T, pkg string, err error) {
	t.Helper()
	servers.mu.Lock()
	defer servers.mu.Unlock()
	if !slices.Contains(servers.missing, pkg) {
		servers.missing = append(servers.missing, pkg)
	}
	t.Skipf("SKIPPED: %s is not installed: %v", pkg, err)
}

// Eventually calls the ok function repeatedly until it returns nil. If this takes longer than limit, the test fails.
// The what parameter describes the expected state in the test's message, such as "the queue is full".
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

// WantUnavailable checks that each call returns problem.Unavailable. It makes the calls concurrently, because each of
// them waits some seconds for the server.
func WantUnavailable(t *testing.T, calls map[string]func() error) {
	t.Helper()
	var group sync.WaitGroup
	for name, call := range calls {
		group.Go(func() {
			if err := call(); !errors.Is(err, problem.Unavailable) {
				t.Errorf("%s: got error %v, want %v", name, err, problem.Unavailable)
			}
		})
	}
	group.Wait()
}

// UniqueName returns a unique name for a database, a virtual host or a user. The name has fewer than 32 characters,
// which is MySQL's limit for user names.
func UniqueName() string { return "test_" + strings.ToLower(rand.Text()[:16]) }

// AtEnd calls the do function when the test ends. If the function returns an error, the test fails. The what parameter
// describes the failed action in the test's message.
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

// secrets are the settings whose values a function reads from a file.
var secrets = []string{
	"MYSQL_DSN", "MYSQL_ADMIN_DSN", "MONGODB_URI", "MONGODB_ADMIN_URI", "EVENTS_URL", "EVENTS_ADMIN_URL",
	"ADMIN_USERNAME", "ADMIN_PASSWORD", "DEMO_USERS",
}

// Environment returns the environment of a function. Each element of settings has the format NAME=VALUE. If the value is
// a secret, Environment writes it to a file in dir and returns NAME_FILE=PATH. It skips empty secrets.
func Environment(dir string, settings []string) ([]string, error) {
	var environment []string
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		if !slices.Contains(secrets, name) {
			environment = append(environment, setting)
			continue
		}
		if value == "" {
			continue
		}
		file, err := os.CreateTemp(dir, name)
		if err != nil {
			return nil, err
		}
		if _, err := file.WriteString(value); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
		environment = append(environment, name+"_FILE="+file.Name())
	}
	return environment, nil
}
