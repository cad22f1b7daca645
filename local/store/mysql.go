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

	"github.com/strongroom-dev/strongroom/local/process"
)

// MySQL is a running server that supports the MySQL protocol.
type MySQL struct {
	*Server
	// AdminDSN is the root user's DSN, in the format of github.com/go-sql-driver/mysql. It selects the strongroom
	// database, which already exists.
	AdminDSN string
}

// MySQLInstall contains the paths of the programs that belong to an installed MariaDB or MySQL server.
type MySQLInstall struct {
	// Kind is "mariadbd" or "mysqld".
	Kind string
	// Server is the path of the server program. InstallDB is the path of mariadb-install-db, or an empty string for
	// mysqld.
	Server, InstallDB string
}

var serverDirs = []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin"}

// FindMySQL returns the programs of an installed MariaDB server. If MariaDB is not installed, it returns the
// programs of an installed MySQL server. The error wraps ErrNotInstalled if neither server is installed or if one
// of the server's programs is missing.
func FindMySQL(ctx context.Context) (MySQLInstall, error) {
	server, err := lookup("mariadbd", serverDirs...)
	if err != nil {
		if server, err = lookup("mysqld", serverDirs...); err != nil {
			return MySQLInstall{}, fmt.Errorf("find a MariaDB or MySQL server: %w", ErrNotInstalled)
		}
		version, err := exec.CommandContext(ctx, server, "--no-defaults", "--version").Output()
		if err != nil {
			return MySQLInstall{}, fmt.Errorf("run %s --version: %w", server, err)
		}
		if !strings.Contains(string(version), "MariaDB") {
			return MySQLInstall{Kind: "mysqld", Server: server}, nil
		}
	}
	install, err := lookup("mariadb-install-db", "/usr/bin", "/usr/local/bin")
	if err != nil {
		return MySQLInstall{}, err
	}
	// mariadb-install-db calls my_print_defaults, which can be missing, because on Debian it is in a separate package.
	if _, err := lookup("my_print_defaults", "/usr/bin", "/usr/local/bin"); err != nil {
		return MySQLInstall{}, err
	}
	return MySQLInstall{Kind: "mariadbd", Server: server, InstallDB: install}, nil
}

// StartMySQL starts the server that FindMySQL finds, with its data in dir. MariaDB and MySQL need different
// directories, because they cannot read each other's files.
func StartMySQL(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	install, err := FindMySQL(ctx)
	if err != nil {
		return nil, err
	}
	m := &MySQL{}
	m.Server, err = start(ctx, install.Kind, dir, func(dir string) ([]program, error) { return m.prepare(ctx, install, dir, w) })
	return m, err
}

// StartTiDB starts TiDB with its data in dir, after building TiDB if necessary.
func StartTiDB(ctx context.Context, dir string, w io.Writer) (*MySQL, error) {
	binary, err := Build(ctx, "tidb", w)
	if err != nil {
		return nil, err
	}
	m := &MySQL{}
	m.Server, err = start(ctx, "tidb", dir, func(dir string) ([]program, error) {
		passwordFile := filepath.Join(dir, "root-password")
		password, err := secret(passwordFile)
		if err != nil {
			return nil, err
		}
		port, err := process.FreePort()
		if err != nil {
			return nil, err
		}
		m.AdminDSN = rootDSN(port, password)
		say(w, "starting TiDB in %s", dir)
		return []program{{
			path: binary,
			args: []string{
				"-addr", process.Address(port), "-dir", filepath.Join(dir, "data"), "-password-file", passwordFile, "-database", database,
			},
			env:   environment(),
			ready: func(ctx context.Context) error { return pingMySQL(ctx, m.AdminDSN) },
		}}, nil
	})
	return m, err
}

// prepare creates the database files if they do not exist. It sets m.AdminDSN and returns the server program.
func (m *MySQL) prepare(ctx context.Context, install MySQLInstall, dir string, w io.Writer) ([]program, error) {
	password, err := secret(filepath.Join(dir, "root-password"))
	if err != nil {
		return nil, err
	}
	// The server executes init.sql at each start, before it accepts connections, so that root always has the
	// password in the file root-password.
	sqlFile := filepath.Join(dir, "init.sql")
	if err := writeFile(sqlFile, install.initSQL(password)); err != nil {
		return nil, err
	}
	// Use a separate TMPDIR, because each server deletes all temporary tables in its TMPDIR when it starts, even those
	// of other servers.
	temp := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, err
	}
	env := environment("TMPDIR=" + temp)
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		say(w, "creating a %s database in %s", install.Kind, dir)
		if err := install.makeData(ctx, data, env); err != nil {
			return nil, err
		}
	}
	port, err := process.FreePort()
	if err != nil {
		return nil, err
	}
	m.AdminDSN = rootDSN(port, password)
	return []program{{
		path: install.Server,
		args: install.arguments(
			"--datadir="+data,
			"--init-file="+sqlFile,
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", port),
			"--socket=server.sock", // relative to data, because the path of a socket may have at most 107 bytes
			"--pid-file=server.pid",
			"--skip-name-resolve",
			"--skip-log-bin",
			"--performance-schema=OFF",
			"--innodb-buffer-pool-size=64M",
			"--character-set-server=utf8mb4",
			"--collation-server=utf8mb4_bin",
		),
		env:   env,
		ready: func(ctx context.Context) error { return pingMySQL(ctx, m.AdminDSN) },
	}}, nil
}

// initSQL returns SQL statements that create the database and set root's password. They also make sure that root can
// sign in only from this machine, and that nobody can sign in without a user name.
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

// makeData creates the initial database files in a temporary directory. It renames the directory when all files
// exist, so that the data directory is never incomplete.
func (m MySQLInstall) makeData(ctx context.Context, data string, env []string) error {
	temp := data + ".new"
	if err := os.RemoveAll(temp); err != nil { // an interrupted attempt might have left files
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

// arguments returns the options that every MariaDB or MySQL program needs, followed by the given additional
// options.
func (m MySQLInstall) arguments(more ...string) []string {
	args := []string{"--no-defaults"} // ignore the machine's configuration files
	if os.Getuid() == 0 {
		args = append(args, "--user=root") // without this argument, the server does not start as root
	}
	if m.Kind == "mysqld" {
		args = append(args, "--mysqlx=OFF")
	}
	return append(args, more...)
}

func rootDSN(port int, password string) string {
	config := mysql.NewConfig()
	config.User, config.Passwd = "root", password
	config.Net, config.Addr = "tcp", process.Address(port)
	config.DBName = database
	return config.FormatDSN()
}

// pingMySQL checks that the server is ready: it signs in and selects the database.
func pingMySQL(ctx context.Context, dsn string) error {
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return err
	}
	config.Timeout, config.ReadTimeout = 2*time.Second, 5*time.Second
	config.Logger = &mysql.NopLogger{} // errors are expected until the server is ready
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	return db.PingContext(ctx)
}
