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

// parentVariable makes the test's binary a parent that starts servers in that directory and then waits to be killed.
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
	select {} // until it is killed
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
		t.Fatalf("the parent said %q, %v", line, err)
	}
	if found := processesIn(t, dir); len(found) < 3 {
		t.Errorf("processes in %s: %q, want FerretDB, epmd and RabbitMQ at least", dir, found)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	wantNoProcess(t, dir)
}

// instance is what all servers have.
type instance interface {
	Restart(ctx context.Context) error
	Stop() error
	Kill() error
	Pid() int
	Done() <-chan struct{}
}

// numbers is a client of a server: it keeps numbers in it.
type numbers interface {
	// add returns nil when the server has acknowledged i.
	add(ctx context.Context, i int) error
	// all returns what the server has.
	all(ctx context.Context) (map[int]bool, error)
}

// testServer puts a server through its life.
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
				t.Errorf("%d is lost, of %d that were acknowledged", i, len(want))
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
		t.Errorf("the instance beside it has %v, %v; want nothing", got, err)
	}
	if err := other.Stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := start(ctx, dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server in one directory: %v, want that it is taken", err)
	}

	pid := server.Pid()
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := server.Pid(); got == pid || got == 0 {
		t.Errorf("pid %d after Restart, %d before", got, pid)
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
		t.Fatal("Done is not closed after Kill")
	}
	if len(kept) <= 60 {
		t.Fatalf("only %d were acknowledged: the server ended before it was killed", len(kept))
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	wantAll(data, kept)

	for range 2 { // the second has nothing to do
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}
	if pid := server.Pid(); pid != 0 {
		t.Errorf("pid %d after Stop, want 0", pid)
	}
	wantNoProcess(t, dir)

	_, data = run(dir)
	wantAll(data, kept)
}

// wantNoProcess fails if some process lives on in dir.
func wantNoProcess(t *testing.T, dir string) {
	t.Helper()
	var found []string
	for range 200 {
		if found = processesIn(t, dir); len(found) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("left behind: %q", found)
}

// processesIn lists the processes that work in dir or have it in their environment.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(all) == 0 {
		t.Skip("no /proc to look for processes in")
	}
	var found []string
	for _, proc := range all {
		if filepath.Base(proc) == fmt.Sprint(os.Getpid()) {
			continue
		}
		// Whatever cannot be read has ended, or belongs to somebody else.
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		env, _ := os.ReadFile(filepath.Join(proc, "environ"))
		if strings.HasPrefix(cwd, dir) || strings.Contains(string(env), dir) {
			cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			found = append(found, filepath.Base(proc)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// need skips the test where a server is missing, or fails it where CI=true promises that nothing is.
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
