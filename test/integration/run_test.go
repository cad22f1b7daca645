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

	"github.com/strongroom-dev/strongroom/knative/local/store"
)

func TestRunWithEmbeddedStores(t *testing.T) {
	const stores = "STRONGROOM_STORES=embedded"
	dir := t.TempDir()
	r := startRunner(t, dir, stores)
	for _, want := range []string{"embedded TiDB", "embedded FerretDB", "straight to record"} {
		if !strings.Contains(r.output(), want) {
			t.Errorf("the runner does not say %q", want)
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

func TestRunWithInstalledStores(t *testing.T) {
	_, err := store.FindMySQL(t.Context())
	need(t, "mariadb-server", err)
	_, err = store.FindRabbitMQ()
	need(t, "rabbitmq-server", err)
	const stores = "STRONGROOM_STORES=installed"
	dir := t.TempDir()
	r := startRunner(t, dir, stores)
	id, content := journey(t, r)
	r.stop(t, syscall.SIGTERM)

	r = startRunner(t, dir, stores)
	token := r.login(t)
	r.wantCatalogued(t, token, id)
	r.wantContent(t, token, id, content)

	// Private servers that crash are started again.
	for _, name := range []string{"mariadbd", "ferretdb", "bin/adapter", "beam.smp"} {
		before := strings.Count(r.output(), " is back\n")
		r.kill(t, name)
		eventually(t, 2*recovery, name+" is back", func() error {
			if strings.Count(r.output(), " is back\n") == before {
				return errors.New("the runner does not say so")
			}
			return nil
		})
	}
	eventually(t, 2*recovery, "login works again", func() error {
		if got := r.tryLogin(t); got.status != http.StatusOK {
			return errors.New(got.String())
		}
		return nil
	})
	r.wantWorks(t, token)
	r.stop(t, syscall.SIGKILL)
}

func TestRunIsStoppedWhileItStarts(t *testing.T) {
	_, err := store.FindRabbitMQ()
	need(t, "rabbitmq-server", err)
	r := launchRunner(t, t.TempDir(), freeAddress(t), "STRONGROOM_STORES=installed")
	eventually(t, recovery, "a server is being started", func() error {
		if !strings.Contains(r.output(), "starting RabbitMQ") {
			return errors.New("the runner does not say so")
		}
		return nil
	})
	if got := r.ask(t, http.MethodGet, "/files", "", "", nil); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("got %s, want 503 with Retry-After", got)
	}
	r.stop(t, syscall.SIGINT)
}

func TestRunWithNamedStores(t *testing.T) {
	mysql, mongo, rabbit := ownMySQL(t), ownMongoDB(t), ownRabbitMQ(t)
	dir := t.TempDir()
	r := startRunner(t, dir, "MYSQL_DSN="+mysql.emptyDatabase(t), "MONGODB_URI="+mongo.newDatabase(t), "EVENTS_URL="+rabbit.newVhost(t).URL)
	for _, name := range []string{"MYSQL_DSN", "MONGODB_URI", "EVENTS_URL"} {
		if !strings.Contains(r.output(), "that "+name+" names") {
			t.Errorf("the runner does not say that it took what %s names", name)
		}
	}
	journey(t, r)
	token := r.login(t)
	id := r.upload(t, token, []byte("here before"))
	r.wantCatalogued(t, token, id)
	outages := []struct {
		name   string
		server killable
		try    func() answer
	}{
		{"MySQL", mysql, func() answer { return r.tryLogin(t) }},
		{"MongoDB", mongo, func() answer { return r.ask(t, http.MethodGet, "/files/"+id, token, "", nil) }},
		{"MongoDB", mongo, func() answer { return r.tryUpload(t, token, []byte("lost")) }},
		{"RabbitMQ", rabbit, func() answer { return r.tryUpload(t, token, []byte("unconfirmed")) }},
	}
	for _, outage := range outages {
		if err := outage.server.Kill(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // the first may find a connection that breaks, the next ones none
			got := outage.try()
			if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" ||
				got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s is away: got %s with Retry-After %q, want a 503 problem document with one", outage.name, got, got.header.Get("Retry-After"))
			}
		}
		if err := outage.server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, recovery, outage.name+" is of use again", func() error {
			if got := outage.try(); got.status >= 300 {
				return errors.New(got.String())
			}
			return nil
		})
		r.wantWorks(t, token)
	}

	// Neither its directory nor its address can be taken by a second one.
	second := launchRunner(t, dir, freeAddress(t))
	wantRefusal(t, second, fmt.Sprintf("(process %d) is using %s", r.cmd.Process.Pid, dir))
	second = launchRunner(t, t.TempDir(), strings.TrimPrefix(r.url, "http://"))
	wantRefusal(t, second, "take another address, such as ADDR=")
	r.stop(t, syscall.SIGINT)
}

// wantRefusal checks that the runner ends at once and says why.
func wantRefusal(t *testing.T, r *runner, why string) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(recovery):
		t.Fatalf("the runner goes on, although %q", why)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(r.output(), why) {
		t.Errorf("got exit status %d and %q, want 1 and %q", code, r.output(), why)
	}
}

// wantWorks checks that a new file gets into the catalogue and out again.
func (r *runner) wantWorks(t *testing.T, token string) {
	t.Helper()
	content := []byte("still works")
	var id string
	eventually(t, 2*recovery, "an upload is accepted", func() error {
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

// journey is the main job: ada signs in, hands in a file, finds it in the catalogue and gets it back. It returns the
// file.
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
		t.Errorf("got the list %+v, want the one file %s", list, id)
	}
	pasteSession(t, r)
	return id, content
}

// session is the part of the runner's output that can be pasted.
var session = regexp.MustCompile(`(?m)^  TOKEN=(.*\n)+?\n`)

// pasteSession does what the runner proposes.
func pasteSession(t *testing.T, r *runner) {
	t.Helper()
	text := session.FindString(r.output())
	if text == "" {
		t.Fatal("the runner proposes no session")
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", text).CombinedOutput()
	if err != nil {
		t.Fatalf("the session: %v\n%s", err, out)
	}
	if !bytes.HasSuffix(out, []byte("hello, strongroom\n")) || !bytes.Contains(out, []byte(`"name":"hello.txt"`)) {
		t.Errorf("the session: got %s, want the file listed and its content at the end", out)
	}
}
