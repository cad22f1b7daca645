package integration

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/local/store"
)

// MYSQL_ADMIN_DSN, MONGODB_ADMIN_URI, and EVENTS_ADMIN_URL with EVENTS_MANAGEMENT_URL name the servers and their
// administrators. For each server that is not named, the tests start a private one. Each test creates its own
// databases, virtual hosts and users and deletes them when it ends, so that several runs can share a server.
//
// If a script started the named servers, STORES is the path of that script. "STORES kill NAME" kills a server and
// "STORES start NAME" starts it again. STORES_DIR/NAME/root is the root directory of that server. Without STORES, a
// test that kills a server starts a private server.

// dropTimeout limits how long a test waits until its database, virtual host or user is deleted.
const dropTimeout = 30 * time.Second

// killable is a server that a test is allowed to kill.
type killable interface {
	// Kill kills the server. As in a power failure, the server does not shut down cleanly.
	Kill() error
	// Restart kills the server if it is running, starts it on the same data, and returns when it accepts connections.
	Restart(ctx context.Context) error
}

// mysqlServer is a MySQL or MariaDB server.
type mysqlServer struct {
	killable // nil if the server is shared with other tests
	adminDSN string
}

// sharedMySQL returns the MySQL server that all tests use.
func sharedMySQL(t *testing.T) mysqlServer {
	t.Helper()
	if dsn := os.Getenv("MYSQL_ADMIN_DSN"); dsn != "" {
		return mysqlServer{adminDSN: dsn}
	}
	private, err := privateMariaDB()
	need(t, "mariadb-server", err)
	return mysqlServer{adminDSN: private.AdminDSN}
}

// ownMySQL returns a MySQL server that no other test uses at the same time.
func ownMySQL(t *testing.T) mysqlServer {
	t.Helper()
	if dsn := os.Getenv("MYSQL_ADMIN_DSN"); dsn != "" && os.Getenv("STORES") != "" {
		return mysqlServer{ownNamed(t, "mysql"), dsn}
	}
	private := own(t, "mariadb-server", "mariadb", store.StartMySQL)
	return mysqlServer{private, private.AdminDSN}
}

// newDatabase returns the DSN of the administrator, and a DSN of a new runtime user and a new database. Neither the
// user nor the database exists yet. newDatabase drops both when the test ends.
func (s mysqlServer) newDatabase(t *testing.T) (admin, runtime string) {
	t.Helper()
	cfg, err := mysql.ParseDSN(s.adminDSN)
	if err != nil {
		t.Fatalf("parse MYSQL_ADMIN_DSN: %v", err)
	}
	name := uniqueName()
	cfg.User, cfg.Passwd, cfg.DBName = name, "it's a \"runtime\" \\ password", name
	atEnd(t, "drop MySQL database and user "+name, func(ctx context.Context) error {
		db, err := sql.Open("mysql", s.adminDSN)
		if err != nil {
			return err
		}
		defer db.Close()
		_, databaseErr := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name)
		_, userErr := db.ExecContext(ctx, "DROP USER IF EXISTS "+name)
		return errors.Join(databaseErr, userErr)
	})
	return s.adminDSN, cfg.FormatDSN()
}

// emptyDatabase creates a database and returns the administrator's DSN for it. The database is dropped when the test
// ends.
func (s mysqlServer) emptyDatabase(t *testing.T) (dsn string) {
	t.Helper()
	admin, runtime := s.newDatabase(t)
	name := databaseOf(t, runtime)
	if _, err := openSQL(t, admin).ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create MySQL database %s: %v", name, err)
	}
	cfg, err := mysql.ParseDSN(admin)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = name
	return cfg.FormatDSN()
}

// databaseOf returns the name of the database in a DSN, which is also the name of the runtime user in a DSN of
// newDatabase.
func databaseOf(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.DBName
}

// mongoServer is a server of the MongoDB protocol.
type mongoServer struct {
	killable // nil if the server is shared with other tests
	adminURI string
}

// sharedMongoDB returns the MongoDB server that all tests use.
func sharedMongoDB(t *testing.T) mongoServer {
	t.Helper()
	if uri := os.Getenv("MONGODB_ADMIN_URI"); uri != "" {
		return mongoServer{adminURI: uri}
	}
	private, err := privateFerretDB()
	need(t, "ferretdb", err)
	return mongoServer{adminURI: private.URI}
}

// ownMongoDB returns a MongoDB server that no other test uses at the same time.
func ownMongoDB(t *testing.T) mongoServer {
	t.Helper()
	if uri := os.Getenv("MONGODB_ADMIN_URI"); uri != "" && os.Getenv("STORES") != "" {
		return mongoServer{ownNamed(t, "mongo"), uri}
	}
	private := own(t, "ferretdb", "ferretdb", store.StartFerretDB)
	return mongoServer{private, private.URI}
}

// newDatabase returns the administrator's URI for a new database. The database is dropped when the test ends.
func (s mongoServer) newDatabase(t *testing.T) (uri string) {
	t.Helper()
	u := parseURL(t, s.adminURI)
	if query := u.Query(); u.User != nil && !query.Has("authSource") {
		// The default of authSource is the database in the path, and the path changes below.
		query.Set("authSource", cmp.Or(strings.TrimPrefix(u.Path, "/"), "admin"))
		u.RawQuery = query.Encode()
	}
	name := uniqueName()
	u.Path = "/" + name
	db := database(t, u.String())
	atEnd(t, "drop MongoDB database "+name, db.Drop)
	return u.String()
}

// newUser returns uri with a new user in place of the administrator. uri must be a result of newDatabase. The user does
// not exist yet and is dropped when the test ends. FerretDB 1 has no users. For FerretDB, newUser returns uri
// unchanged.
func (s mongoServer) newUser(t *testing.T, uri string) string {
	t.Helper()
	u := parseURL(t, uri)
	if u.User == nil {
		return uri
	}
	name := uniqueName()
	u.User = url.UserPassword(name, rand.Text())
	source := strings.TrimPrefix(u.Path, "/")
	u.RawQuery = url.Values{"authSource": {source}}.Encode()
	client := database(t, uri).Client()
	atEnd(t, "drop MongoDB user "+name, func(ctx context.Context) error {
		return client.Database(source).RunCommand(ctx, bson.D{{Key: "dropUser", Value: name}}).Err()
	})
	return u.String()
}

// rabbitServer is a RabbitMQ server with its management plugin.
type rabbitServer struct {
	killable      // nil if the server is shared with other tests
	adminURL      string
	managementURL string
	private       *store.Rabbit // set only if ownRabbitMQ started the server
}

// sharedRabbitMQ returns the RabbitMQ server that all tests use.
func sharedRabbitMQ(t *testing.T) rabbitServer {
	t.Helper()
	if named, ok := namedRabbitMQ(t); ok {
		return named
	}
	private, err := privateRabbitMQ()
	need(t, "rabbitmq-server", err)
	return rabbitServer{adminURL: private.URL, managementURL: private.ManagementURL}
}

// ownRabbitMQ returns a RabbitMQ server that no other test uses at the same time.
func ownRabbitMQ(t *testing.T) rabbitServer {
	t.Helper()
	if named, ok := namedRabbitMQ(t); ok && os.Getenv("STORES") != "" {
		named.killable = ownNamed(t, "rabbitmq")
		return named
	}
	private := own(t, "rabbitmq-server", "rabbitmq", store.StartManagedRabbitMQ)
	return rabbitServer{private, private.URL, private.ManagementURL, private}
}

// namedRabbitMQ returns the RabbitMQ server that the environment names. It reports false if the environment names no
// server.
func namedRabbitMQ(t *testing.T) (rabbitServer, bool) {
	t.Helper()
	named := rabbitServer{adminURL: os.Getenv("EVENTS_ADMIN_URL"), managementURL: os.Getenv("EVENTS_MANAGEMENT_URL")}
	if (named.adminURL == "") != (named.managementURL == "") {
		t.Fatal("set EVENTS_ADMIN_URL and EVENTS_MANAGEMENT_URL together: a test creates its virtual host through the management API " +
			"and uses it through AMQP")
	}
	return named, named.adminURL != ""
}

// vhost is a virtual host of a RabbitMQ server.
type vhost struct {
	rabbitServer
	name string
	// URL is the administrator's amqp URL of the virtual host.
	URL string
}

// permissions are regular expressions of the names that a RabbitMQ user is allowed to configure, write to and read
// from.
type permissions struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// newVhost creates a virtual host, which is deleted when the test ends. Tests cannot share a virtual host, because the
// names of the exchanges and queues are fixed.
func (s rabbitServer) newVhost(t *testing.T) vhost {
	t.Helper()
	u := parseURL(t, s.adminURL)
	v := vhost{rabbitServer: s, name: uniqueName()}
	s.put(t, "vhosts/"+v.name, struct{}{})
	s.deleteAtEnd(t, "vhosts/"+v.name)
	s.put(t, "permissions/"+v.name+"/"+url.PathEscape(u.User.Username()), permissions{".*", ".*", ".*"})
	u.Path = "/" + v.name
	v.URL = u.String()
	return v
}

// newUser creates a user with the given permissions in the virtual host and returns the user's amqp URL. The user is
// deleted when the test ends.
func (v vhost) newUser(t *testing.T, allowed permissions) (amqpURL string) {
	t.Helper()
	name, password := uniqueName(), rand.Text()
	v.put(t, "users/"+name, map[string]string{"password": password, "tags": ""})
	v.deleteAtEnd(t, "users/"+name)
	v.put(t, "permissions/"+v.name+"/"+name, allowed)
	u := parseURL(t, v.URL)
	u.User = url.UserPassword(name, password)
	return u.String()
}

// put creates an object through the management API.
func (s rabbitServer) put(t *testing.T, path string, object any) {
	t.Helper()
	if err := s.manage(t.Context(), http.MethodPut, path, object); err != nil {
		t.Fatal(err)
	}
}

// deleteAtEnd deletes an object through the management API when the test ends.
func (s rabbitServer) deleteAtEnd(t *testing.T, path string) {
	t.Helper()
	atEnd(t, "RabbitMQ", func(ctx context.Context) error { return s.manage(ctx, http.MethodDelete, path, nil) })
}

// manage sends a request to the management API.
func (s rabbitServer) manage(ctx context.Context, method, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.managementURL, "/")+"/api/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, response.Status, text)
	}
	return err
}

// rabbitmqctl runs RabbitMQ's command-line tool on a server that ownRabbitMQ returned.
func (s rabbitServer) rabbitmqctl(t *testing.T, args ...string) {
	t.Helper()
	// On Debian, the rabbitmqctl on the PATH is a wrapper that requires the system user rabbitmq. The program that it
	// wraps does not.
	tool := "/usr/lib/rabbitmq/bin/rabbitmqctl"
	var cmd *exec.Cmd
	if s.private == nil {
		cmd = exec.CommandContext(t.Context(), tool, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: filepath.Join(os.Getenv("STORES_DIR"), "rabbitmq", "root")}
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/var/lib/rabbitmq", "RABBITMQ_NODENAME=rabbit@localhost"}
		cmd.Dir = "/"
	} else {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.private.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(tool); err != nil {
			if tool, err = exec.LookPath("rabbitmqctl"); err != nil {
				t.Fatal(err)
			}
		}
		cmd = exec.CommandContext(t.Context(), tool, args...)
		cmd.Env = strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00")
		cmd.Dir = filepath.Dir(servers.dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// namedServer is the name of a server that the script in STORES started.
type namedServer string

// ownNamed returns a named server for a test that kills it. Other tests do not use the server at the same time, because
// the tests of this package run one at a time. If the test fails, ownNamed restarts the server for the following tests.
func ownNamed(t *testing.T, name string) namedServer {
	t.Helper()
	server := namedServer(name)
	atEnd(t, "restart "+name, func(ctx context.Context) error {
		if !t.Failed() {
			return nil
		}
		return server.Restart(ctx)
	})
	return server
}

// Kill kills the server.
func (s namedServer) Kill() error { return s.run(context.Background(), "kill") }

// Restart kills the server and starts it again.
func (s namedServer) Restart(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	return s.run(ctx, "start")
}

func (s namedServer) run(ctx context.Context, action string) error {
	if out, err := exec.CommandContext(ctx, os.Getenv("STORES"), action, string(s)).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", action, s, err, out)
	}
	return nil
}

// uniqueName returns a unique name for a database, a virtual host or a user. The name has fewer than 32 characters,
// which is MySQL's limit for user names.
func uniqueName() string { return "test_" + strings.ToLower(rand.Text()[:16]) }

// atEnd calls do when the test ends, and fails the test if do fails.
func atEnd(t *testing.T, what string, do func(ctx context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), dropTimeout)
		defer cancel()
		if err := do(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

// parseURL parses the URL of a store.
func parseURL(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("parse the URL of a store: %v", errors.Unwrap(err)) // err contains the URL, which has a password
	}
	return u
}
