package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// MySQL is a running server that speaks the MySQL protocol.
type MySQL struct {
	*Server
	// AdminDSN is the go-sql-driver connection string of root, with the database strongroom, which exists.
	AdminDSN string
	// Kind is mariadbd, mysqld or tidb.
	Kind string
}

// MySQLInstall is a MySQL server that is installed on this machine.
type MySQLInstall struct {
	// Kind is mariadbd or mysqld.
	Kind string
	// Server is the path of the server's program; InstallDB is that of mariadb-install-db, empty for mysqld.
	Server, InstallDB string
}

var serverDirs = []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin"}

// FindMySQL finds an installed MariaDB or else MySQL. ErrNotInstalled if there is none, or if MariaDB lacks a program
// that makes its first database.
func FindMySQL(ctx context.Context) (MySQLInstall, error) {
	server, err := lookup("mariadbd", serverDirs...)
	if err != nil {
		if server, err = lookup("mysqld", serverDirs...); err != nil {
			return MySQLInstall{}, fmt.Errorf("mariadbd, mysqld: %w", ErrNotInstalled)
		}
		version, err := exec.CommandContext(ctx, server, "--no-defaults", "--version").Output()
		if err != nil {
			return MySQLInstall{}, fmt.Errorf("%s --version: %w", server, err)
		}
		if !strings.Contains(string(version), "MariaDB") {
			return MySQLInstall{Kind: "mysqld", Server: server}, nil
		}
	}
	install, err := lookup("mariadb-install-db", "/usr/bin", "/usr/local/bin")
	if err != nil {
		return MySQLInstall{}, err
	}
	// mariadb-install-db cannot do without it, and Debian has the two in different packages.
	if _, err := lookup("my_print_defaults", "/usr/bin", "/usr/local/bin"); err != nil {
		return MySQLInstall{}, err
	}
	return MySQLInstall{Kind: "mariadbd", Server: server, InstallDB: install}, nil
}

// StartMySQL starts the MariaDB or MySQL that FindMySQL finds, with its data in dir. Whichever it is, dir must stay with
// it.
func StartMySQL(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	install, err := FindMySQL(ctx)
	if err != nil {
		return nil, err
	}
	return startMySQL(ctx, install, dir, w)
}

// StartMariaDB starts an installed MariaDB with its data in dir.
func StartMariaDB(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	install, err := FindMySQL(ctx)
	if err != nil {
		return nil, err
	}
	if install.Kind != "mariadbd" {
		return nil, fmt.Errorf("mariadbd: %w (there is a %s)", ErrNotInstalled, install.Server)
	}
	return startMySQL(ctx, install, dir, w)
}

func startMySQL(ctx context.Context, install MySQLInstall, dir string, w io.Writer) (*MySQL, error) {
	dir, lock, err := open(dir)
	if err != nil {
		return nil, err
	}
	server, dsn, err := prepareMySQL(ctx, install, dir, w)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", install.Kind, err), lock.Close())
	}
	started, err := start(ctx, install.Kind, dir, lock, server)
	if err != nil {
		return nil, err
	}
	return &MySQL{Server: started, AdminDSN: dsn, Kind: install.Kind}, nil
}

// prepareMySQL makes the data directory, where there is none, and the command that serves it.
func prepareMySQL(ctx context.Context, install MySQLInstall, dir string, w io.Writer) (program, string, error) {
	password, err := secret(filepath.Join(dir, "root-password"))
	if err != nil {
		return program{}, "", err
	}
	// The server runs it before it accepts connections, at each start: root never has another password.
	sqlFile := filepath.Join(dir, "init.sql")
	if err := writeFile(sqlFile, install.initSQL(password)); err != nil {
		return program{}, "", err
	}
	// A server deletes all temporary tables in its TMPDIR when it starts, also those of other servers.
	temp := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return program{}, "", err
	}
	env := environment("TMPDIR=" + temp)
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		say(w, "making a %s database in %s", install.Kind, dir)
		if err := install.makeData(ctx, data, env); err != nil {
			return program{}, "", err
		}
	}
	port, err := freePort(ctx)
	if err != nil {
		return program{}, "", err
	}
	dsn := rootDSN(port, password)
	return program{
		path: install.Server,
		args: install.arguments(
			"--datadir="+data,
			"--init-file="+sqlFile,
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", port),
			"--socket=server.sock", // in the data directory: longer paths than 107 bytes are refused
			"--pid-file=server.pid",
			"--skip-name-resolve",
			"--skip-log-bin",
			"--performance-schema=OFF",
			"--innodb-buffer-pool-size=64M",
			"--character-set-server=utf8mb4",
			"--collation-server=utf8mb4_bin",
		),
		env: env, dir: dir, log: filepath.Join(dir, "server.log"),
		ready: func(ctx context.Context) error { return pingMySQL(ctx, dsn) },
	}, dsn, nil
}

// initSQL makes root the only account, reachable from this machine, with the password.
func (m MySQLInstall) initSQL(password string) string {
	lines := []string{
		"CREATE DATABASE IF NOT EXISTS " + database + " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;",
		"CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';",
		"ALTER USER 'root'@'127.0.0.1' IDENTIFIED BY '" + password + "';",
		"GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;",
		"ALTER USER 'root'@'localhost' IDENTIFIED BY '" + password + "';",
	}
	if m.Kind == "mariadbd" {
		lines = append([]string{
			"DELETE FROM mysql.global_priv WHERE User='' OR User='root' AND Host NOT IN ('localhost','127.0.0.1');",
			"FLUSH PRIVILEGES;",
		}, lines...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// makeData makes the first database files beside data and moves them there when they are complete.
func (m MySQLInstall) makeData(ctx context.Context, data string, env []string) error {
	temp := data + ".new"
	if err := os.RemoveAll(temp); err != nil { // of an earlier attempt
		return err
	}
	path, args := m.InstallDB, []string{"--datadir=" + temp, "--auth-root-authentication-method=normal", "--skip-test-db"}
	if m.Kind == "mysqld" {
		path, args = m.Server, []string{"--datadir=" + temp, "--initialize-insecure"}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if out, err := run(ctx, "", env, path, m.arguments(args...)...); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(path), err, out)
	}
	return os.Rename(temp, data)
}

// arguments adds what every call wants: none of the machine's settings, and as root the word that root is meant.
func (m MySQLInstall) arguments(more ...string) []string {
	args := []string{"--no-defaults"}
	if os.Getuid() == 0 {
		args = append(args, "--user=root")
	}
	if m.Kind == "mysqld" {
		args = append(args, "--mysqlx=OFF")
	}
	return append(args, more...)
}

func rootDSN(port int, password string) string {
	config := mysql.NewConfig()
	config.User, config.Passwd = "root", password
	config.Net, config.Addr = "tcp", address(port)
	config.DBName = database
	return config.FormatDSN()
}

// pingMySQL signs in and selects the database.
func pingMySQL(ctx context.Context, dsn string) error {
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return err
	}
	config.Timeout, config.ReadTimeout = 2*time.Second, 5*time.Second
	config.Logger = &mysql.NopLogger{} // refusals are expected until it is up
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	return db.PingContext(ctx)
}
