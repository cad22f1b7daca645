package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/local/process"
)

// username is the name of the administrator in each RabbitMQ server that this package starts.
const username = "strongroom"

// Rabbit is a running RabbitMQ server.
type Rabbit struct {
	*Server
	// URL is the administrator's AMQP URL for the virtual host /.
	URL string
	// ManagementURL is the URL of the management API, with the administrator's credentials. It is empty if the
	// management plugin is disabled.
	ManagementURL string
}

// RabbitInstall contains the paths of the programs that belong to an installed RabbitMQ server.
type RabbitInstall struct {
	// Server is the path of rabbitmq-server. Epmd is the path of the Erlang port mapper.
	Server, Epmd string
}

// FindRabbitMQ returns the programs of an installed RabbitMQ server. The error wraps ErrNotInstalled if one of the
// programs is missing.
func FindRabbitMQ() (RabbitInstall, error) {
	// On Debian, the rabbitmq-server in PATH is a wrapper that works only with the system's RabbitMQ user and
	// directories. Therefore, prefer the program that the wrapper calls.
	server, err := lookup("/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err != nil {
		if server, err = lookup("rabbitmq-server", "/usr/sbin", "/usr/local/sbin"); err != nil {
			return RabbitInstall{}, err
		}
	}
	erlang, _ := filepath.Glob("/usr/lib/erlang/erts-*/bin")
	epmd, err := lookup("epmd", append([]string{"/usr/bin", "/usr/local/bin"}, erlang...)...)
	if err != nil {
		return RabbitInstall{}, err
	}
	return RabbitInstall{Server: server, Epmd: epmd}, nil
}

// StartRabbitMQ starts an installed RabbitMQ server with its data in dir. The management plugin is disabled.
func StartRabbitMQ(ctx context.Context, dir string, w io.Writer) (*Rabbit, error) {
	return startRabbitMQ(ctx, dir, w, false)
}

// StartManagedRabbitMQ starts an installed RabbitMQ server with its data in dir. The management plugin is enabled.
func StartManagedRabbitMQ(ctx context.Context, dir string, w io.Writer) (*Rabbit, error) {
	return startRabbitMQ(ctx, dir, w, true)
}

func startRabbitMQ(ctx context.Context, dir string, w io.Writer, managed bool) (*Rabbit, error) {
	install, err := FindRabbitMQ()
	if err != nil {
		return nil, err
	}
	rabbit := &Rabbit{}
	rabbit.Server, err = start(ctx, "rabbitmq-server", dir, func(dir string) ([]program, error) {
		say(w, "starting RabbitMQ in %s; this takes about five seconds", dir)
		return rabbit.prepare(install, dir, managed)
	})
	return rabbit, err
}

// prepare writes the configuration files and sets all fields of r except Server. It returns the two programs to
// start, which are the Erlang port mapper and the RabbitMQ server.
func (r *Rabbit) prepare(install RabbitInstall, dir string, managed bool) ([]program, error) {
	if strings.ContainsAny(dir, " \t\n") {
		return nil, fmt.Errorf("%q: RabbitMQ's start script does not support white space in a path", dir)
	}
	password, err := secret(filepath.Join(dir, "password"))
	if err != nil {
		return nil, err
	}
	if _, err := secret(filepath.Join(dir, ".erlang.cookie")); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Join(dir, ".erlang.cookie"), 0o400); err != nil { // Erlang requires this mode
		return nil, err
	}
	var free [4]int
	for i := range free {
		if free[i], err = process.FreePort(); err != nil {
			return nil, err
		}
	}
	port, dist, mapper, management := free[0], free[1], free[2], free[3]
	user := url.UserPassword(username, password)
	r.URL = (&url.URL{Scheme: "amqp", User: user, Host: process.Address(port), Path: "/"}).String()
	conf := []string{
		"listeners.tcp.1 = " + process.Address(port),
		// Load the user definition at every start, because an interrupted first start might not have created the user.
		"load_definitions = " + filepath.Join(dir, "definitions.json"),
		"log.console = true",
		"log.console.level = warning",
		"log.file = false",
		// Limit the write-ahead log of quorum queues to 64 MiB, because the default of 512 MiB is too large for a
		// development machine.
		"raft.wal_max_size_bytes = 67108864",
	}
	plugins := "[].\n"
	if managed {
		plugins = "[rabbitmq_management].\n"
		conf = append(conf, "management.tcp.ip = 127.0.0.1", "management.tcp.port = "+strconv.Itoa(management))
		r.ManagementURL = (&url.URL{Scheme: "http", User: user, Host: process.Address(management)}).String()
	}
	settings := map[string]string{
		"rabbitmq.conf":     strings.Join(conf, "\n") + "\n",
		"definitions.json":  definitions(password),
		"enabled_plugins":   plugins,
		"rabbitmq-env.conf": "",
	}
	for name, content := range settings {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return nil, err
		}
	}
	env := environment(
		"HOME="+dir, // Erlang reads its cookie from $HOME
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT="+strconv.Itoa(mapper),
		"ERL_CRASH_DUMP_SECONDS=0",
		// The node name must never change, because it is part of the path at which the server looks for its data.
		// Several servers can use the same node name, because each has its own port mapper.
		"RABBITMQ_NODENAME=strongroom@localhost",
		"RABBITMQ_DIST_PORT="+strconv.Itoa(dist),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "rabbitmq-env.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(dir, "advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "enabled_plugins"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
		// With this variable, the start script replaces itself with the server. Otherwise, signals would go to the
		// script instead of the server.
		"RUNNING_UNDER_SYSTEMD=true",
	)
	// The port mapper must start first, because the server would otherwise start one as a daemon, which would keep
	// running after the server has ended.
	return []program{{
		path: install.Epmd,
		args: []string{"-port", strconv.Itoa(mapper), "-address", "127.0.0.1"},
		env:  env, log: filepath.Join(dir, "epmd.log"),
		ready: func(ctx context.Context) error { return dial(ctx, mapper) },
	}, {
		path:  install.Server,
		env:   env,
		ready: func(context.Context) error { return pingAMQP(r.URL) },
	}}, nil
}

// definitions returns the content of a RabbitMQ definitions file that creates one administrator (see
// rabbitmq.com/docs/definitions).
func definitions(password string) string {
	// The hash is a 32-bit salt, followed by the SHA-256 hash of the salt and the password (see
	// rabbitmq.com/docs/passwords).
	salt := []byte("salt") // not random, because the password itself is stored in the same directory
	sum := sha256.Sum256(append(salt, password...))
	hash := base64.StdEncoding.EncodeToString(append(salt, sum[:]...))
	return fmt.Sprintf(`{"vhosts":[{"name":"/"}],
"users":[{"name":%[1]q,"password_hash":%[2]q,"hashing_algorithm":"rabbit_password_hashing_sha256","tags":["administrator"]}],
"permissions":[{"user":%[1]q,"vhost":"/","configure":".*","write":".*","read":".*"}]}
`, username, hash)
}

// pingAMQP checks that the server is ready: it signs in and opens a channel.
func pingAMQP(url string) error { return withChannel(url, (*amqp.Channel).Close) }

// withChannel signs in, opens a channel and calls use.
func withChannel(url string, use func(*amqp.Channel) error) error {
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	return use(channel)
}
