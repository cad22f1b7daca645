package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell returns a program that runs a shell script.
func shell(script string, ready func(context.Context) error) program {
	return program{path: "/bin/sh", args: []string{"-c", script}, env: environment(), ready: ready}
}

// says returns a ready function that returns nil when the log contains word.
func says(dir, word string) func(context.Context) error {
	return func(context.Context) error {
		text, err := os.ReadFile(filepath.Join(dir, "server.log"))
		if err == nil && !strings.Contains(string(text), word) {
			err = fmt.Errorf("the log does not contain %q", word)
		}
		return err
	}
}

func startShell(t *testing.T, ctx context.Context, dir string, p program) (*Server, error) {
	t.Helper()
	server, err := start(ctx, "shell", dir, func(string) ([]program, error) { return []program{p}, nil })
	if err == nil {
		t.Cleanup(func() { _ = server.Stop() })
	}
	return server, err
}

func TestStartOfWhatEnds(t *testing.T) {
	dir := t.TempDir()
	_, err := startShell(t, t.Context(), dir, shell("echo out of luck; exit 3", func(context.Context) error { return errors.New("no") }))
	for _, want := range []string{"start shell", "exit status 3", "out of luck"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that contains %q", err, want)
		}
	}
	if lock, err := reserve(dir); err != nil {
		t.Errorf("the directory is still locked: %v", err)
	} else {
		lock.Close()
	}
}

func TestStartOfWhatNeverAnswers(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient, never := errors.New("impatient"), errors.New("deaf")
	ready := func(ctx context.Context) error {
		if says(dir, "hello")(ctx) == nil {
			cancel(impatient)
		}
		return never
	}
	_, err := startShell(t, ctx, dir, shell("echo hello; sleep 1000 & wait", ready))
	if !errors.Is(err, impatient) || !errors.Is(err, never) || !strings.Contains(err.Error(), "hello") {
		t.Errorf("got %v, want an error with %q, %q and the log", err, impatient, never)
	}
	wantNoProcess(t, dir)
}

func TestStartOfWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	absent := shell("", nil)
	absent.path = filepath.Join(dir, "absent")
	if _, err := startShell(t, t.Context(), dir, absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

func TestStopIsPoliteFirst(t *testing.T) {
	dir := t.TempDir()
	script := `trap 'echo goodbye; exit' TERM; echo hello; while :; do sleep 0.05; done`
	server, err := startShell(t, t.Context(), dir, shell(script, says(dir, "hello")))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := says(dir, "goodbye")(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDoneTellsOfACrash(t *testing.T) {
	dir := t.TempDir()
	server, err := startShell(t, t.Context(), dir, shell("echo hello; sleep 1000 & wait", says(dir, "hello")))
	if err != nil {
		t.Fatal(err)
	}
	pid := server.Pid()
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("got process group %d, %v, want its own group %d", group, err, pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-server.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("Done was not closed within 30 s after the crash")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := server.Pid(); got == pid || got == 0 {
		t.Errorf("got process ID %d after Restart, want a new ID (before: %d)", got, pid)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	wantNoProcess(t, dir) // this includes the child process that the crash left behind
	if done := server.Done(); done != nil {
		t.Error("Done returned a channel for a stopped server, want nil")
	}
}

func TestRunGroupEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("impatient")
	go func() {
		for range 600 {
			if says(dir, "hello")(ctx) == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		cancel(impatient)
	}()
	_, err := run(ctx, dir, environment(), "/bin/sh", "-c", "echo hello >server.log; sleep 1000 & wait")
	if !errors.Is(err, impatient) {
		t.Errorf("got %v, want %v", err, impatient)
	}
	wantNoProcess(t, dir)
	if out, err := run(t.Context(), dir, environment(), "/bin/sh", "-c", "echo said; exit 2"); err == nil || out != "said" {
		t.Errorf("got output %q and error %v, want the output %q and an error", out, err, "said")
	}
}

func TestSecretIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	first, err := secret(path)
	if err != nil || len(first) < 20 {
		t.Fatalf("got password %q, %v, want at least 20 characters", first, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: got %v, %v, want mode 0600", info, err)
	}
	if again, err := secret(path); err != nil || again != first {
		t.Errorf("second call: got %q, %v, want %q", again, err, first)
	}
	if other, err := secret(path + "2"); err != nil || other == first {
		t.Errorf("another file: got %q, %v, want a different password", other, err)
	}
	if got, err := secret(filepath.Dir(path)); err == nil || got != "" {
		t.Errorf("directory instead of a file: got %q, %v, want an error and no password", got, err)
	}
}

func TestServersDoNotSeeSettingsOfOthers(t *testing.T) {
	t.Setenv("MYSQL_HOME", "/elsewhere")
	t.Setenv("RABBITMQ_NODENAME", "elsewhere")
	t.Setenv("UNRELATED", "kept")
	all := strings.Join(environment("ADDED=yes"), "\n")
	if strings.Contains(all, "elsewhere") {
		t.Error("the environment contains a variable that configures a server")
	}
	if !strings.Contains(all, "UNRELATED=kept") || !strings.Contains(all, "ADDED=yes") {
		t.Error("the environment lacks UNRELATED or ADDED")
	}
}
