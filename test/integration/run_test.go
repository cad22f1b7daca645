package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestRunWithEmbeddedStores proves that `make run` works with the embedded stores, keeps the files across a restart,
// and leaves no process behind, even if it is killed.
func TestRunWithEmbeddedStores(t *testing.T) {
	const stores = "STRONGROOM_STORES=embedded"
	dir := t.TempDir()
	r := startRunner(t, dir, stores)
	for _, want := range []string{"embedded TiDB", "embedded FerretDB", "directly to the record function"} {
		if !strings.Contains(r.output(), want) {
			t.Errorf("the output of the runner does not contain %q", want)
		}
	}
	id, content := journey(t, r)
	r.stop(t, syscall.SIGINT)

	r = startRunner(t, dir, stores)
	token := r.login(t)
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)
	r.stop(t, syscall.SIGKILL)
}

// TestRunWithInstalledStores proves that `make run` works with the installed MariaDB and RabbitMQ, keeps the files
// across a restart, and restarts servers that crash.
func TestRunWithInstalledStores(t *testing.T) {
	_, err := store.FindMySQL(t.Context())
	servertest.Need(t, "mariadb-server", err)
	_, err = store.FindRabbitMQ()
	servertest.Need(t, "rabbitmq-server", err)
	const stores = "STRONGROOM_STORES=installed"
	dir := t.TempDir()
	r := startRunner(t, dir, stores)
	id, content := journey(t, r)
	r.stop(t, syscall.SIGTERM)

	r = startRunner(t, dir, stores)
	token := r.login(t)
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)

	// The runner restarts its private servers when they crash.
	for _, name := range []string{"mariadbd", "ferretdb", "bin/adapter", "beam.smp"} {
		before := strings.Count(r.output(), " is running again\n")
		r.kill(t, name)
		servertest.Eventually(t, 2*servertest.Recovery, name+" is running again", func() error {
			if strings.Count(r.output(), " is running again\n") == before {
				return errors.New("the output has no new line with \"is running again\"")
			}
			return nil
		})
	}
	servertest.Eventually(t, 2*servertest.Recovery, "sign-in works again", func() error {
		if got := r.tryLogin(t); got.status != http.StatusOK {
			return errors.New(got.String())
		}
		return nil
	})
	r.wantWorks(t, token)
	r.stop(t, syscall.SIGKILL)
}

// TestRunIsStoppedWhileItStarts proves that `make run` responds with 503 while it starts its stores, and that SIGINT
// stops it in that state.
func TestRunIsStoppedWhileItStarts(t *testing.T) {
	_, err := store.FindRabbitMQ()
	servertest.Need(t, "rabbitmq-server", err)
	r := launchRunner(t, t.TempDir(), freeAddress(t), "STRONGROOM_STORES=installed")
	servertest.Eventually(t, servertest.Recovery, "the runner is starting RabbitMQ", func() error {
		if !strings.Contains(r.output(), "starting RabbitMQ") {
			return errors.New("the output does not contain \"starting RabbitMQ\"")
		}
		return nil
	})
	if got := r.ask(t, http.MethodGet, "/files", "", "", nil); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("got %s, want 503 with Retry-After", got)
	}
	r.stop(t, syscall.SIGINT)
}

// TestRunWithNamedStores proves that `make run` uses the servers in its settings, responds with 503 to the requests that
// need a server that is down, accepts uploads while RabbitMQ is down, and works again when the server is up. A second
// runner must not use the same directory or the same address.
func TestRunWithNamedStores(t *testing.T) {
	mysql, mongo, rabbit := servertest.OwnMySQL(t), servertest.OwnMongoDB(t), servertest.OwnRabbitMQ(t)
	dir := t.TempDir()
	r := startRunner(t, dir, "MYSQL_DSN="+mysql.EmptyDatabase(t), "MONGODB_URI="+mongo.NewDatabase(t), "EVENTS_URL="+rabbit.NewVhost(t).URL)
	for _, name := range []string{"MYSQL_DSN_FILE", "MONGODB_URI_FILE", "EVENTS_URL_FILE"} {
		if !strings.Contains(r.output(), " from "+name+"; ") {
			t.Errorf("the output of the runner does not name the server from %s", name)
		}
	}
	journey(t, r)
	token := r.login(t)
	id := r.upload(t, token, []byte("here before"))
	r.wantCatalogued(t, token, id)
	outages := []struct {
		name   string
		server servertest.Killable
		try    func() answer
		status int
	}{
		{"MySQL", mysql, func() answer { return r.tryLogin(t) }, 503},
		{"MongoDB", mongo, func() answer { return r.ask(t, http.MethodGet, "/files/"+id, token, "", nil) }, 503},
		{"MongoDB", mongo, func() answer { return r.tryUpload(t, token, []byte("lost")) }, 503},
		{"RabbitMQ", rabbit, func() answer { return r.tryUpload(t, token, []byte("not announced")) }, 202},
	}
	for _, outage := range outages {
		if err := outage.server.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // the first request can use a connection that breaks; later requests find no server
			got := outage.try()
			refused := got.header.Get("Retry-After") != "" && got.header.Get("Content-Type") == "application/problem+json"
			if got.status != outage.status || refused != (outage.status == http.StatusServiceUnavailable) {
				t.Errorf("%s is down: got %s with Retry-After %q, want status %d, and a problem document with Retry-After if it is 503",
					outage.name, got, got.header.Get("Retry-After"), outage.status)
			}
		}
		if err := outage.server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		servertest.Eventually(t, servertest.Recovery, "requests that need "+outage.name+" succeed again", func() error {
			if got := outage.try(); got.status >= 300 {
				return errors.New(got.String())
			}
			return nil
		})
		r.wantWorks(t, token)
	}

	// A second runner cannot use the directory or the address of the first one.
	second := launchRunner(t, dir, freeAddress(t))
	wantRefusal(t, second, fmt.Sprintf("(process %d) is using %s", r.cmd.Process.Pid, dir))
	second = launchRunner(t, t.TempDir(), strings.TrimPrefix(r.url, "http://"))
	wantRefusal(t, second, "set ADDR to a different address, such as ")
	r.stop(t, syscall.SIGINT)
}

// wantRefusal checks that the runner exits with status 1 and that its output contains why.
func wantRefusal(t *testing.T, r *runner, why string) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(servertest.Recovery):
		t.Fatalf("the runner is still running, want it to exit with the message %q", why)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(r.output(), why) {
		t.Errorf("got exit status %d and output %q, want 1 and output with %q", code, r.output(), why)
	}
}

// wantWorks checks that a new file can be uploaded, appears in the catalog, and can be downloaded.
func (r *runner) wantWorks(t *testing.T, token string) {
	t.Helper()
	content := []byte("still works")
	var id string
	servertest.Eventually(t, 2*servertest.Recovery, "an upload is accepted", func() error {
		got := r.tryUpload(t, token, content)
		if got.status != http.StatusAccepted {
			return errors.New(got.String())
		}
		var stored struct{ ID string }
		got.decode(t, http.StatusAccepted, &stored)
		id = stored.ID
		return nil
	})
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)
}

// journey checks the main use case: ada signs in, uploads a file, finds the file in the catalog and downloads it.
// journey returns the file.
func journey(t *testing.T, r *runner) (id string, content []byte) {
	t.Helper()
	content = bytes.Repeat([]byte("0123456789abcdef"), 200_000) // 3.2 MB: several chunks
	if got := r.ask(t, http.MethodGet, "/files", "", "", nil); got.status != http.StatusUnauthorized {
		t.Errorf("without a token: got %s, want 401", got)
	}
	if got := r.ask(t, http.MethodGet, "/nothing", "", "", nil); got.status != http.StatusNotFound {
		t.Errorf("unknown path: got %s, want 404", got)
	}
	token := r.login(t)
	id = r.upload(t, token, content)
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)
	var list struct{ Files []struct{ ID string } }
	r.ask(t, http.MethodGet, "/files", token, "", nil).decode(t, http.StatusOK, &list)
	if len(list.Files) != 1 || list.Files[0].ID != id {
		t.Errorf("got the list %+v, want only the file %s", list, id)
	}
	pasteSession(t, r)
	return id, content
}

// session matches the commands in the runner's output that a user can paste into a shell.
var session = regexp.MustCompile(`(?m)^  TOKEN=(.*\n)+?\n`)

// pasteSession runs the commands that the runner prints, and checks their output.
func pasteSession(t *testing.T, r *runner) {
	t.Helper()
	text := session.FindString(r.output())
	if text == "" {
		t.Fatal("the output of the runner has no commands to paste")
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", text).CombinedOutput()
	if err != nil {
		t.Fatalf("run the printed commands: %v\n%s", err, out)
	}
	if !bytes.HasSuffix(out, []byte("hello, strongroom\n")) || !bytes.Contains(out, []byte(`"name":"hello.txt"`)) {
		t.Errorf("run the printed commands: got %s, want the file hello.txt in a list, and its content at the end", out)
	}
}
