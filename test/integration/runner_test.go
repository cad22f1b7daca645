package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// runner is a running instance of the program behind `make run`.
type runner struct {
	cmd  *exec.Cmd
	url  string
	dir  string
	done chan struct{} // closed when the program has exited
	mu   sync.Mutex
	text bytes.Buffer // the output so far
}

// Write appends the program's output to the text that output returns.
func (r *runner) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *runner) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// runnerBinary builds the program behind `make run` once and returns its path.
var runnerBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(servertest.TempDir(), "bin", "local")
	ctx, cancel := context.WithTimeout(context.Background(), servertest.StartTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "../../local").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// withoutStores returns the environment without the settings of the stores and of the runner. The tests can run with
// MYSQL_ADMIN_DSN and similar variables.
func withoutStores() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"MYSQL_DSN", "MYSQL_ADMIN_DSN", "MONGODB_URI", "MONGODB_ADMIN_URI", "EVENTS_URL", "EVENTS_ADMIN_URL",
			"EVENTS_MANAGEMENT_URL", "IDLE_TIMEOUT"}, name)
	})
}

// launchRunner starts the runner on address with its data in dir. The runner does not inherit the settings that select
// the stores of the tests.
func launchRunner(t *testing.T, dir, address string, settings ...string) *runner {
	t.Helper()
	binary, err := runnerBinary()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{cmd: exec.Command(binary), url: "http://" + address, dir: dir, done: make(chan struct{})}
	r.cmd.Env = append(withoutStores(), "ADDR="+address, "STRONGROOM_DIR="+dir)
	files, err := servertest.Environment(t.TempDir(), settings)
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Env = append(r.cmd.Env, files...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = root, r, r
	// The runner gets its own session, so that left can find all of its processes.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // stop reads the exit status from ProcessState
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // fails if the runner has exited, which is the normal case
		<-r.done
		if t.Failed() {
			t.Logf("output of the runner:\n%s", r.output())
		}
	})
	return r
}

// startRunner starts the runner on a free address and returns when the runner is ready.
func startRunner(t *testing.T, dir string, settings ...string) *runner {
	t.Helper()
	r := launchRunner(t, dir, freeAddress(t), settings...)
	begin := time.Now()
	servertest.Eventually(t, servertest.StartTimeout, "the runner is ready", func() error {
		select {
		case <-r.done:
			t.Fatalf("the runner exited before it was ready: %s", r.cmd.ProcessState)
		default:
		}
		if !strings.Contains(r.output(), "Strongroom is ready at ") {
			return errors.New("the output does not contain \"Strongroom is ready at\"")
		}
		return nil
	})
	t.Logf("ready after %s", time.Since(begin).Round(10*time.Millisecond))
	return r
}

// freeAddress returns a loopback address with a free TCP port.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// stop sends the signal, waits until the runner exits, and checks that the runner leaves no process behind.
func (r *runner) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if len(r.left(t)) < 2 {
		t.Errorf("running processes of the runner: got %v, want at least 2, or the check for leftovers does not work", r.left(t))
	}
	if err := r.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatalf("the runner has not exited a minute after %s", signal)
	}
	if signal != syscall.SIGKILL {
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("after %s: got %s, want exit status 0", signal, r.cmd.ProcessState)
		}
		if left := r.left(t); len(left) > 0 {
			t.Errorf("after %s: got the leftover processes %v, want none", signal, left)
		}
		return
	}
	servertest.Eventually(t, servertest.Recovery, "all processes of the killed runner have ended", func() error {
		if left := r.left(t); len(left) > 0 {
			return fmt.Errorf("got the leftover processes %v, want none", left)
		}
		return nil
	})
}

// left returns the command lines, by process ID, of the processes that are in the runner's session or have the runner's
// directory in their arguments or environment.
func (r *runner) left(t *testing.T) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		read := func(name string) string {
			content, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), name)) // fails if the process has ended
			return string(content)
		}
		// The fields after the command name are state, parent, process group and session. The command name is in
		// parentheses and can contain spaces and parentheses, so the fields are read after the last one.
		stat := read("stat")
		fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(fields) < 4 || fields[0] == "Z" {
			continue
		}
		commandLine := read("cmdline")
		if fields[3] == strconv.Itoa(r.cmd.Process.Pid) || strings.Contains(commandLine+read("environ"), r.dir) {
			found[pid] = strings.ReplaceAll(commandLine, "\x00", " ")
		}
	}
	return found
}

// kill kills those processes of the runner whose command lines contain name.
func (r *runner) kill(t *testing.T, name string) {
	t.Helper()
	var killed int
	for pid, commandLine := range r.left(t) {
		if strings.Contains(commandLine, name) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatalf("no process of the runner has %q in its command line", name)
	}
}

// answer is an HTTP response whose body has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

var httpClient = &http.Client{Timeout: time.Minute}

// ask sends a request to the runner. An empty token or contentType omits the header.
func (r *runner) ask(t *testing.T, method, path, token, contentType string, body []byte) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, got}
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// decode decodes the JSON body of a response. The test fails if the response does not have the given status.
func (a answer) decode(t *testing.T, status int, into any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %s, want status %d", a, status)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("decode the response %s: %v", a, err)
	}
}

// tryLogin signs in as the demo user ada and returns the response.
func (r *runner) tryLogin(t *testing.T) answer {
	t.Helper()
	form := url.Values{"username": {"ada"}, "password": {"lovelace-1843"}}
	return r.ask(t, http.MethodPost, "/login", "", "application/x-www-form-urlencoded", []byte(form.Encode()))
}

// login signs in as the demo user ada and returns the access token.
func (r *runner) login(t *testing.T) string {
	t.Helper()
	var got struct {
		AccessToken string `json:"access_token"`
	}
	r.tryLogin(t).decode(t, http.StatusOK, &got)
	return got.AccessToken
}

// tryUpload uploads a file and returns the response.
func (r *runner) tryUpload(t *testing.T, token string, content []byte) answer {
	t.Helper()
	return r.ask(t, http.MethodPost, "/upload?name=file.bin", token, "application/octet-stream", content)
}

// upload uploads a file and returns its ID. The upload must succeed.
func (r *runner) upload(t *testing.T, token string, content []byte) string {
	t.Helper()
	var got struct{ ID, SHA256 string }
	r.tryUpload(t, token, content).decode(t, http.StatusAccepted, &got)
	if want := servertest.SHA256(content); got.SHA256 != want {
		t.Errorf("got the digest %s, want %s", got.SHA256, want)
	}
	return got.ID
}

// wantCatalogued waits until the file has the status "catalogued".
func (r *runner) wantCatalogued(t *testing.T, token, id string) {
	t.Helper()
	servertest.Eventually(t, 2*servertest.Recovery, "file "+id+" is in the catalog", func() error {
		got := r.ask(t, http.MethodGet, "/files/"+id, token, "", nil)
		if got.status != http.StatusOK || !bytes.Contains(got.body, []byte(`"catalogued"`)) {
			return errors.New(got.String())
		}
		return nil
	})
}

// wantContent downloads a file and compares its content with content.
func (r *runner) wantContent(t *testing.T, token, id string, content []byte) {
	t.Helper()
	got := r.ask(t, http.MethodGet, "/files/"+id+"/content", token, "", nil)
	if got.status != http.StatusOK {
		t.Fatalf("download %s: got %s", id, got)
	}
	if got, want := servertest.SHA256(got.body), servertest.SHA256(content); got != want {
		t.Errorf("download %s: got the digest %s, want %s", id, got, want)
	}
}
