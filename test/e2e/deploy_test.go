//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// root is the top directory of the repository.
const root = "../.."

// deploy runs `make deploy` in the directory dir, for at most 15 minutes, and returns its output.
func deploy(t *testing.T, dir string, environment ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "make", "--no-print-directory", "deploy")
	command.Dir = dir
	command.Env = append(os.Environ(), environment...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	return out.String(), err
}

// TestDeployPrintsCause proves that `make deploy` fails if setup or a store cannot work, and prints the cause in one
// line that names the setting.
func TestDeployPrintsCause(t *testing.T) {
	t.Cleanup(func() {
		if out, err := deploy(t, root); err != nil {
			t.Errorf("deploy again with the correct configuration: %v\n%s", err, out)
		}
	})
	// `make deploy` stops waiting after this number of seconds, so a printed cause was found within that time.
	const wait = "WAIT=45"
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T)
		want  []string // regular expressions, each of which matches one line
	}{
		{"wrong passwords", func(t *testing.T) {
			change(t, "mysql-admin", "dsn", func(dsn string) string { return asMySQLUser(t, dsn, "root", "wrong") })
			change(t, "mongodb-admin", "uri", func(uri string) string { return asUser(t, uri, "root", "wrong") })
			change(t, "rabbitmq-setup", "url", func(url string) string { return asUser(t, url, "setup", "wrong") })
		}, []string{
			`^setup .*MYSQL_ADMIN_DSN_FILE: .*Access denied for user 'root'`,
			`^setup .*MONGODB_ADMIN_URI_FILE: .*\bAuthenticationFailed\b`,
			`^setup .*EVENTS_ADMIN_URL_FILE: .*username or password not allowed`,
		}},
		{"missing permissions", func(t *testing.T) {
			runtime, err := mysql.ParseDSN(secretValue(t, "mysql", "dsn"))
			if err != nil {
				t.Fatal(err)
			}
			change(t, "mysql-admin", "dsn", func(dsn string) string { return asMySQLUser(t, dsn, runtime.User, runtime.Passwd) })
			password := secretValue(t, "rabbitmq-upload", "password")
			change(t, "rabbitmq-setup", "url", func(url string) string { return asUser(t, url, "upload", password) })
		}, []string{
			`^setup .*MYSQL_ADMIN_DSN_FILE: .*denied.* '?strongroom`,
			`^setup .*EVENTS_ADMIN_URL_FILE: .*ACCESS_REFUSED.*'strongroom\.`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spoil(t)
			out, err := deploy(t, root, wait)
			wantReasons(t, out, err, test.want)
		})
	}
	t.Run("store that does not start", func(t *testing.T) {
		dir := copyTree(t)
		path := filepath.Join(dir, "config/backing/mysql.yaml")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		spoiled := strings.Replace(string(content), "--disable-log-bin", "--no-such-option", 1)
		if spoiled == string(content) {
			t.Fatalf("%s does not contain --disable-log-bin", path)
		}
		if err := os.WriteFile(path, []byte(spoiled), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := deploy(t, dir, wait)
		wantReasons(t, out, err, []string{`^mysql .*unknown option '--no-such-option'`})
	})
}

// wantReasons checks that a deployment failed, and that each pattern in want matches a line of its output.
func wantReasons(t *testing.T, out string, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Errorf("deploy: got no error, want an error:\n%s", out)
	}
	for _, pattern := range want {
		if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
			t.Errorf("deploy: no output line matches %s:\n%s", pattern, out)
		}
	}
}

// copyTree copies the files that `make deploy` reads to a temporary directory and returns its path.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"config", "deploy", "functions", "knative", "shared"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum", "ko.yaml", ".ko.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// secretValue returns a value of a Secret.
func secretValue(t *testing.T, name, key string) string {
	t.Helper()
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	get(t, &secret, "secret", name)
	return string(secret.Data[key])
}

// change replaces a value of a Secret with the result of to until the test ends.
func change(t *testing.T, name, key string, to func(string) string) {
	t.Helper()
	original := secretValue(t, name, key)
	set := func(value string) {
		patch, err := json.Marshal(map[string]any{"data": map[string]string{key: base64.StdEncoding.EncodeToString([]byte(value))}})
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, "patch", "secret", name, "--patch", string(patch))
	}
	t.Cleanup(func() { set(original) })
	set(to(original))
}

// asMySQLUser returns dsn with another user and password.
func asMySQLUser(t *testing.T, dsn, user, password string) string {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Passwd = user, password
	return config.FormatDSN()
}

// asUser returns the URL address with another user and password.
func asUser(t *testing.T, address, user, password string) string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	parsed.User = url.UserPassword(user, password)
	return parsed.String()
}
