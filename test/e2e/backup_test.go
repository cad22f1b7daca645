//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/strongroom-dev/strongroom/test/docs/commands"
)

// TestBackupAndRestore proves that the documented commands restore accounts and files after both databases were lost,
// and list the upload that the backup does not contain.
func TestBackupAndRestore(t *testing.T) {
	if kubectl(t, "get", "cronjob", "backup", "--ignore-not-found", "-o", "name") == "" {
		if out, err := deploy(t, root, "BACKUP=1"); err != nil {
			t.Fatalf("deploy: %v\n%s", err, out)
		}
	}
	s := open(t)
	user := *s
	user.username, user.password, user.token = fmt.Sprintf("backup-%d", time.Now().UnixNano()), "analytical-engine", ""
	s.newUser(t, user.username, user.password)
	before, deleted := newFile("before.bin", 3<<20), newFile("deleted.bin", 1<<10)
	for _, f := range []*file{before, deleted} {
		user.upload(t, f)
		user.catalogued(t, f, 2*time.Minute)
	}
	user.remove(t, deleted)

	t.Cleanup(func() { kubectl(t, "delete", "job", "backup-now", "--ignore-not-found") })
	runCommands(t, "docs/backup.md", "kubectl create job --from=cronjob/backup backup-now -n strongroom",
		"kubectl wait job/backup-now -n strongroom --for=condition=Complete --timeout=6h")
	created := regexp.MustCompile(`(?m)^backup: (\S+)$`).FindStringSubmatch(kubectl(t, "logs", "job/backup-now"))
	if created == nil {
		t.Fatal("the log of the backup does not contain its name")
	}
	name := created[1]
	runCommands(t, "docs/backup.md", "kubectl delete job backup-now -n strongroom")

	after := newFile("after.bin", 1<<10)
	user.upload(t, after)
	user.catalogued(t, after, 2*time.Minute)
	dropDatabases(t)

	if out := runCommands(t, "docs/backup.md", "deploy/job backups"); !strings.Contains(out, name+" ") {
		t.Errorf("deploy/job backups: got\n%s\nwant the backup %s", out, name)
	}
	t.Log(runCommands(t, "docs/backup.md", strings.Replace("deploy/job restore BACKUP", "BACKUP", name, 1)))
	out := runCommands(t, "docs/backup.md", "deploy/job lost")
	for _, lost := range []struct {
		f    *file
		want bool
	}{{after, true}, {before, false}, {deleted, false}} {
		if strings.Contains(out, lost.f.id) != lost.want {
			t.Errorf("deploy/job lost: got\n%s\nwant %s in the output: %t", out, lost.f.name, lost.want)
		}
	}

	user.token = ""
	user.signedIn(t)
	user.download(t, before)
	if status := user.status(t, before); status != "catalogued" {
		t.Errorf("file of the backup: got status %s, want catalogued", status)
	}
	for _, f := range []*file{deleted, after} {
		if got := user.call(t, http.MethodGet, "files", "/files/"+f.id, user.token, nil, nil); got.status != http.StatusNotFound {
			t.Errorf("get %s: got %s, want 404", f.name, got)
		}
	}
	// The system works as before the loss.
	again := newFile("again.bin", 1<<10)
	user.upload(t, again)
	user.catalogued(t, again, 2*time.Minute)
	if out, err := jobOutput("restore", name); err == nil || !strings.Contains(out, "--overwrite") {
		t.Errorf("restore over files: got error %v and the output\n%s\nwant a refusal that names --overwrite", err, out)
	}
	user.download(t, again)
}

// remove deletes a file.
func (s *system) remove(t *testing.T, f *file) {
	t.Helper()
	if got := s.call(t, http.MethodDelete, "files", "/files/"+f.id, s.signedIn(t), nil, nil); got.status != http.StatusNoContent {
		t.Fatalf("delete %s: got %s, want 204", f.name, got)
	}
}

// dropDatabases deletes the data of Strongroom in MySQL and MongoDB.
func dropDatabases(t *testing.T) {
	t.Helper()
	kubectl(t, "exec", "mysql-0", "--", "bash", "-c",
		`MYSQL_PWD=$(</run/secrets/mysql/password) mysql -u root -e "DROP DATABASE strongroom"`)
	if err := mongoAdmin(t).Database("strongroom").Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mongoAdmin connects to the deployed MongoDB as its administrator.
func mongoAdmin(t *testing.T) *mongo.Client {
	t.Helper()
	address, err := url.Parse(secretValue(t, "mongodb-admin", "uri"))
	if err != nil {
		t.Fatal("the Secret mongodb-admin contains no valid URI")
	}
	address.Host = forward(t, namespace, "pod/mongodb-0", "27017")
	client, err := mongo.Connect(options.Client().ApplyURI(address.String()).SetDirect(true).SetTimeout(30 * time.Second))
	if err != nil {
		t.Fatal("connect to MongoDB: invalid URI")
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return client
}

// jobOutput runs deploy/job for at most five minutes.
func jobOutput(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, root+"/deploy/job", args...)
	command.Env = os.Environ()
	out, err := command.CombinedOutput()
	return string(out), err
}

// example matches the name of a backup.
var example = regexp.MustCompile(`\b[0-9]{8}T[0-9]{6}Z\b`)

// runCommands runs commands in one shell and returns their output. Each command must be on the page. In the commands, the
// name of a backup replaces the word BACKUP on the page.
func runCommands(t *testing.T, page string, lines ...string) string {
	t.Helper()
	found, err := commands.On(root, page)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, command := range found {
		texts[command.Line()] = command.Text
	}
	var script strings.Builder
	for _, line := range lines {
		text := texts[example.ReplaceAllString(line, "BACKUP")]
		if text == "" {
			t.Fatalf("%s does not have the command %s", page, line)
		}
		fmt.Fprintln(&script, strings.ReplaceAll(text, "BACKUP", example.FindString(line)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script.String())
	shell.Dir, shell.WaitDelay = root, time.Second // a program that bash has started can keep the pipe open
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("run %s: %v\n%s", strings.Join(lines, "; "), err, out)
	}
	return string(out)
}
