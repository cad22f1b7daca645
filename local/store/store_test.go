package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parentVariable is an environment variable with a directory. If it is set, the test binary starts servers in this
// directory and then waits until it is killed.
const parentVariable = "STRONGROOM_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		os.Exit(parent(dir))
	}
	os.Exit(m.Run())
}

func parent(dir string) int {
	ctx := context.Background()
	_, ferret := StartFerretDB(ctx, filepath.Join(dir, "ferretdb"), os.Stderr)
	_, rabbit := StartRabbitMQ(ctx, filepath.Join(dir, "rabbitmq"), os.Stderr)
	if err := errors.Join(ferret, rabbit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	select {} // wait to be killed
}

func TestNothingOutlivesItsParent(t *testing.T) {
	needRabbitMQ(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentVariable+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("got the line %q, %v from the parent, want %q", line, err, "ready\n")
	}
	if found := processesIn(t, dir); len(found) < 3 {
		t.Errorf("got the processes %q in %s, want at least FerretDB, epmd and RabbitMQ", found, dir)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the error only reports that the parent was killed
	wantNoProcess(t, dir)
}

// instance has the methods of all servers.
type instance interface {
	Restart(ctx context.Context) error
	Stop() error
	Kill() error
	Pid() int
	Done() <-chan struct{}
}

// numbers is a client that stores numbers in a server.
type numbers interface {
	// add stores i. It returns nil when the server has acknowledged i.
	add(ctx context.Context, i int) error
	// all returns the numbers that the server has stored.
	all(ctx context.Context) (map[int]bool, error)
}

// testServer starts, restarts, kills and stops a server. It checks that the server keeps all acknowledged numbers and
// that no process is left behind.
func testServer(t *testing.T, start func(ctx context.Context, dir string) (instance, numbers, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run := func(dir string) (instance, numbers) {
		t.Helper()
		server, data, err := start(ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop() })
		return server, data
	}
	wantAll := func(data numbers, want map[int]bool) {
		t.Helper()
		got, err := data.all(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if !got[i] {
				t.Errorf("the number %d is lost (acknowledged numbers: %d)", i, len(want))
			}
		}
	}
	dir := t.TempDir()
	server, data := run(dir)
	kept := map[int]bool{}
	for i := range 10 {
		if err := data.add(ctx, i); err != nil {
			t.Fatal(err)
		}
		kept[i] = true
	}

	other, otherData := run(t.TempDir())
	if got, err := otherData.all(ctx); err != nil || len(got) != 0 {
		t.Errorf("second server: got %v, %v, want no numbers", got, err)
	}
	if err := other.Stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := start(ctx, dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second server in the same directory: got %v, want an error that mentions another process", err)
	}

	pid := server.Pid()
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := server.Pid(); got == pid || got == 0 {
		t.Errorf("got process ID %d after Restart, want a new ID (before: %d)", got, pid)
	}
	wantAll(data, kept)

	acknowledged := make(chan int)
	go func() {
		defer close(acknowledged)
		for i := 10; data.add(ctx, i) == nil; i++ {
			acknowledged <- i
		}
	}()
	done := server.Done()
	for i := range acknowledged {
		kept[i] = true
		if i == 60 {
			go func() {
				if err := server.Kill(); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("Done was not closed after Kill")
	}
	if len(kept) <= 60 {
		t.Fatalf("only %d numbers were acknowledged, because the server ended before Kill", len(kept))
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	wantAll(data, kept)

	for range 2 { // the second Stop must do nothing
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
	if pid := server.Pid(); pid != 0 {
		t.Errorf("got process ID %d after Stop, want 0", pid)
	}
	wantNoProcess(t, dir)

	_, data = run(dir)
	wantAll(data, kept)
}

// wantNoProcess fails the test if a process still uses dir after 10 s.
func wantNoProcess(t *testing.T, dir string) {
	t.Helper()
	var found []string
	for range 200 {
		if found = processesIn(t, dir); len(found) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("these processes are still running: %q", found)
}

// processesIn returns the processes whose working directory is in dir or whose environment contains dir.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(all) == 0 {
		t.Skip("/proc is not available")
	}
	var found []string
	for _, proc := range all {
		if filepath.Base(proc) == fmt.Sprint(os.Getpid()) {
			continue
		}
		// Ignore errors: the process has ended or belongs to another user.
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		env, _ := os.ReadFile(filepath.Join(proc, "environ"))
		if strings.HasPrefix(cwd, dir) || strings.Contains(string(env), dir) {
			cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			found = append(found, filepath.Base(proc)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// need skips the test if a server is not installed. If CI is "true", all servers must be installed, and need fails
// the test instead. Any other error also fails the test.
func need(t *testing.T, err error, advice string) {
	t.Helper()
	switch {
	case err == nil:
	case !errors.Is(err, ErrNotInstalled) || os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skipf("NOT TESTED: %v; %s", err, advice)
	}
}
