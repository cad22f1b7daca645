package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// runner is a `make run` in progress.
type runner struct {
	cmd  *exec.Cmd
	url  string
	dir  string
	done chan struct{} // closed once it has ended
	mu   sync.Mutex
	text bytes.Buffer // what it has shown
}

// Write collects the output.
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

// runnerBinary is the program behind `make run`.
var runnerBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(servers.dir, "bin", "local")
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "../../knative/local").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// launchRunner starts the runner on a free address with its data in dir. Nothing of the stores that this test's own
// environment may name reaches it.
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
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "MYSQL_DSN", "MYSQL_ADMIN_DSN", "MONGODB_URI", "MONGODB_ADMIN_URI", "EVENTS_URL", "EVENTS_ADMIN_URL", "EVENTS_MANAGEMENT_URL", "IDLE_TIMEOUT":
		default:
			r.cmd.Env = append(r.cmd.Env, variable)
		}
	}
	r.cmd.Env = append(r.cmd.Env, "ADDR="+address, "STRONGROOM_DIR="+dir)
	r.cmd.Env = append(r.cmd.Env, settings...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = root, r, r
	// A session of its own, by which what it leaves behind is known.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // the state says it all
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it should have ended long ago
		<-r.done
		if t.Failed() {
			t.Logf("what the runner showed:\n%s", r.output())
		}
	})
	return r
}

// startRunner starts the runner and returns once it is ready.
func startRunner(t *testing.T, dir string, settings ...string) *runner {
	t.Helper()
	r := launchRunner(t, dir, freeAddress(t), settings...)
	begin := time.Now()
	eventually(t, startTimeout, "the runner is ready", func() error {
		select {
		case <-r.done:
			t.Fatalf("the runner ended: %s", r.cmd.ProcessState)
		default:
		}
		if !strings.Contains(r.output(), "Strongroom is ready at ") {
			return errors.New("it does not say so")
		}
		return nil
	})
	t.Logf("ready after %s", time.Since(begin).Round(10*time.Millisecond))
	return r
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// stop sends the signal, waits for the runner's end, and checks that it leaves nothing behind.
func (r *runner) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if len(r.left(t)) < 2 {
		t.Errorf("got the processes %v while it runs: this check sees nothing", r.left(t))
	}
	if err := r.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatalf("the runner has not ended a minute after %s", signal)
	}
	if signal != syscall.SIGKILL {
		if code := r.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the runner ended with %s after %s, want exit status 0", r.cmd.ProcessState, signal)
		}
		if left := r.left(t); len(left) > 0 {
			t.Errorf("after %s these processes are left: %v", signal, left)
		}
		return
	}
	eventually(t, recovery, "its processes end with a killed runner", func() error {
		if left := r.left(t); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// left returns the processes, by id, that are in the runner's session or were told of its directory.
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
			content, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), name)) // it may be gone
			return string(content)
		}
		// state, parent, group and session follow the command's name, which may hold anything.
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

// kill kills the processes of the runner whose command line contains name.
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
		t.Fatalf("the runner has no process %s to kill", name)
	}
}

// answer is an HTTP answer that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

var httpClient = &http.Client{Timeout: time.Minute}

// ask sends a request to the runner, with the token if it is not empty.
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

// decode reads the JSON body of an answer that must have the status.
func (a answer) decode(t *testing.T, status int, into any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %s, want %d", a, status)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
}

// tryLogin signs the demo user ada in.
func (r *runner) tryLogin(t *testing.T) answer {
	t.Helper()
	form := url.Values{"username": {"ada"}, "password": {"lovelace-1843"}}
	return r.ask(t, http.MethodPost, "/login", "", "application/x-www-form-urlencoded", []byte(form.Encode()))
}

// login returns ada's token.
func (r *runner) login(t *testing.T) string {
	t.Helper()
	var got struct {
		AccessToken string `json:"access_token"`
	}
	r.tryLogin(t).decode(t, http.StatusOK, &got)
	return got.AccessToken
}

// tryUpload hands in a file.
func (r *runner) tryUpload(t *testing.T, token string, content []byte) answer {
	t.Helper()
	return r.ask(t, http.MethodPost, "/upload?name=file.bin", token, "application/octet-stream", content)
}

// upload hands in a file and returns its id.
func (r *runner) upload(t *testing.T, token string, content []byte) string {
	t.Helper()
	var got struct{ ID, SHA256 string }
	r.tryUpload(t, token, content).decode(t, http.StatusAccepted, &got)
	if want := digest(content); got.SHA256 != want {
		t.Errorf("got the digest %s, want %s", got.SHA256, want)
	}
	return got.ID
}

// wantCatalogued waits until the file's catalogue entry is there.
func (r *runner) wantCatalogued(t *testing.T, token, id string) {
	t.Helper()
	eventually(t, 2*recovery, "file "+id+" is in the catalogue", func() error {
		got := r.ask(t, http.MethodGet, "/files/"+id, token, "", nil)
		if got.status != http.StatusOK || !bytes.Contains(got.body, []byte(`"catalogued"`)) {
			return errors.New(got.String())
		}
		return nil
	})
}

// wantContent downloads the file and compares.
func (r *runner) wantContent(t *testing.T, token, id string, content []byte) {
	t.Helper()
	got := r.ask(t, http.MethodGet, "/files/"+id+"/content", token, "", nil)
	if got.status != http.StatusOK {
		t.Fatalf("download %s: got %s", id, got)
	}
	if got, want := digest(got.body), digest(content); got != want {
		t.Errorf("download %s: got the digest %s, want %s", id, got, want)
	}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
