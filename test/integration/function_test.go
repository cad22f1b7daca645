package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// binaries contains the paths of the built functions by function name, so that each function is built once.
var binaries = struct {
	mu    sync.Mutex
	paths map[string]string
}{paths: map[string]string{}}

// build builds the function with the given name, if no test has built it, and returns the path of the binary.
func build(t *testing.T, name string) string {
	t.Helper()
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if path, ok := binaries.paths[name]; ok {
		return path
	}
	path := filepath.Join(servertest.TempDir(), "bin", name)
	ctx, cancel := context.WithTimeout(t.Context(), servertest.StartTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "../../functions/"+name).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	binaries.paths[name] = path
	return path
}

// environment returns the environment of a binary. Functions of the previous version read secrets from the environment,
// and all others read them from files.
func environment(binary string, settings []string) ([]string, error) {
	if strings.HasPrefix(binary, previousDir()) {
		return settings, nil
	}
	return servertest.Environment(servertest.TempDir(), settings)
}

// runFunction runs the binary of a function with the given settings until the test ends, and returns its URL.
func runFunction(t *testing.T, name string, settings ...string) string {
	t.Helper()
	url, _ := runLogged(t, name, settings...)
	return url
}

// runLogged is like runFunction and also returns the path of the function's log file.
func runLogged(t *testing.T, name string, settings ...string) (url, log string) {
	t.Helper()
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build(t, name))
	if cmd.Env, err = environment(cmd.Path, settings); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append([]string{"HOST=127.0.0.1", "PORT=" + port, "SWEEP_INTERVAL=0s"}, cmd.Env...) // most tests sweep often
	url = "http://" + address
	log = runProgram(t, name, cmd, func() error {
		res, err := http.Get(url + "/healthz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("GET /healthz: got %s, want 200", res.Status)
		}
		return nil
	})
	return url, log
}

// runProgram starts a program, waits until serves returns nil, and returns the path of the program's log file. At the
// end of the test, runProgram sends SIGTERM, after which the program must exit with status 0. If the test fails, it
// prints the log.
func runProgram(t *testing.T, name string, cmd *exec.Cmd, serves func() error) string {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails if the program has already exited
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("run %s: %v", name, err)
			}
		case <-time.After(servertest.Recovery):
			_ = cmd.Process.Kill()
			t.Errorf("%s did not exit within %v after SIGTERM", name, servertest.Recovery)
		}
		if t.Failed() {
			text, err := os.ReadFile(log.Name())
			t.Logf("log of %s (read error: %v):\n%s", name, err, text)
		}
	})
	servertest.Eventually(t, servertest.Recovery, name+" accepts requests", serves)
	return log.Name()
}
