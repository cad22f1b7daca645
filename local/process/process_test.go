package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain runs the tests. If RUN_AS is "parent", it instead starts a child process, prints the child's process ID,
// and waits until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS") != "parent" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sleep", "600")
	if _, err := Start(cmd, nil); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strconv.Itoa(cmd.Process.Pid) + "\n")
	select {}
}

// gone waits until the process with this ID has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for running(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still running", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// running reports whether a process exists and is not a zombie. A zombie has ended but its parent has not waited for
// it.
func running(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return err == nil && !bytes.Contains(status, []byte("\nState:\tZ"))
}

// readPid reads a process ID.
func readPid(t *testing.T, r io.Reader) int {
	t.Helper()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestChildDiesWithItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "RUN_AS=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	pid := readPid(t, out)
	if !running(pid) {
		t.Fatal("the child is not running")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // the error only reports that the parent was killed
	gone(t, pid)
}

func TestStart(t *testing.T) {
	ended := false
	p, err := Start(exec.Command("sh", "-c", "exit 3"), func() { ended = true })
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	var exit *exec.ExitError
	if !errors.As(p.Err(), &exit) || exit.ExitCode() != 3 || p.Status() != "exit status 3" || !ended {
		t.Errorf("got error %v, status %q and ended %t, want exit status 3 and true", p.Err(), p.Status(), ended)
	}
	if _, err := Start(exec.Command("/none"), func() { t.Error("ended was called although the program did not start") }); err == nil {
		t.Error("got no error for a program that does not exist")
	}
}

func TestRunKillsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer writer.Close()
	cmd := exec.Command("sh", "-c", "sleep 600 & echo $!; wait")
	cmd.Stdout = writer
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cmd) }()
	grandchild := readPid(t, out)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	gone(t, grandchild)
	if err := Run(ctx, exec.Command("true")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a canceled context: got %v, want %v", err, context.Canceled)
	}
	if err := Run(t.Context(), exec.Command("true")); err != nil {
		t.Error(err)
	}
	if err := Run(t.Context(), exec.Command("/none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a program that does not exist: got %v, want %v", err, os.ErrNotExist)
	}
	if err := syscall.Kill(cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal the group leader: got %v, want %v", err, syscall.ESRCH)
	}
}

func TestAwait(t *testing.T) {
	stop, refused := errors.New("stop"), errors.New("connection refused")
	for name, tc := range map[string]struct {
		script string
		ready  int // number of the attempt that succeeds; 0 if none does
		cancel bool
		want   string // text of the error; empty if no error is expected
	}{
		"a failed attempt is repeated":                          {"exec sleep 600", 2, false, ""},
		"a process that ends is reported with its status":       {"exit 3", 0, false, "sh ended: exit status 3"},
		"a canceled wait is reported with the last failure too": {"exec sleep 600", 0, true, "sh is not ready: stop: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Start(exec.Command("sh", "-c", tc.script), nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			attempts := 0
			err = p.Await(ctx, time.Millisecond, func(context.Context) error {
				if tc.cancel {
					cancel(stop)
				}
				if attempts++; attempts == tc.ready {
					return nil
				}
				return refused
			})
			if tc.want == "" && (err != nil || attempts != tc.ready) || tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Errorf("got %v after %d attempts, want %q", err, attempts, tc.want)
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			if err := p.Stop(time.Minute); err != nil {
				t.Errorf("stop a process that has ended: got %v, want no error", err)
			}
			if err := p.Kill(); err != nil {
				t.Errorf("kill a process that has ended: got %v, want no error", err)
			}
		})
	}
}

// TestStopKillsAProcessThatIgnoresSIGTERM also checks that Stop kills the child process, which ignores SIGTERM, too.
func TestStopKillsAProcessThatIgnoresSIGTERM(t *testing.T) {
	out, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer writer.Close()
	cmd := exec.Command("sh", "-c", "trap '' TERM; sleep 600 & echo $!; while :; do wait; done")
	cmd.Stdout = writer
	p, err := Start(cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	grandchild := readPid(t, out)
	if err := p.Stop(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Status() != "signal: killed" {
		t.Errorf("got status %q, want %q", p.Status(), "signal: killed")
	}
	gone(t, grandchild)
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := WaitForLock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("lock that is already held: got %v, want %v", err, ErrLocked)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := WaitForLock(ctx, path); !errors.Is(err, stop) {
		t.Errorf("wait with a canceled context: got %v, want %v", err, stop)
	}
	// A child process that inherits the lock keeps it.
	cmd := exec.Command("sleep", "600")
	cmd.ExtraFiles = []*os.File{lock}
	p, err := Start(cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("lock that a child process holds: got %v, want %v", err, ErrLocked)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if lock, err = Lock(path); err != nil {
		t.Errorf("lock after the child process has ended: %v", err)
	}
	lock.Close()
	path = filepath.Join(path, "file")
	if _, err := WaitForLock(t.Context(), path); errors.Is(err, ErrLocked) || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("lock that cannot be created: got %v, want another error than %v, with the path", err, ErrLocked)
	}
}

func TestFreePort(t *testing.T) {
	port, err := FreePort()
	if err != nil || port < firstPort || port >= firstPort+ports {
		t.Fatalf("got port %d, %v, want a port between %d and %d", port, err, firstPort, firstPort+ports-1)
	}
	listener, err := net.Listen("tcp", Address(port))
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

func TestBuild(t *testing.T) {
	stop := errors.New("stop")
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	for name, tc := range map[string]struct {
		ctx    context.Context
		source string
		want   []string // parts of the error; empty if no error is expected
	}{
		"a valid program is built":                     {t.Context(), "func main() {}", nil},
		"an error has the compiler's message":          {t.Context(), "func main() { undefinedThing() }", []string{"undefinedThing", "exit status 1"}},
		"a canceled build is reported with the reason": {canceled, "func main() {}", []string{"stop"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range map[string]string{"go.mod": "module m\n", "main.go": "package main\n\n" + tc.source + "\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			binary := filepath.Join(dir, "program")
			err := Build(tc.ctx, dir, func(string) {}, "-o", binary, ".")
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error that contains %q", err, want)
				}
			}
			if tc.want != nil {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := Run(t.Context(), exec.Command(binary)); err != nil {
				t.Errorf("run the program: got %v, want no error", err)
			}
		})
	}
}
