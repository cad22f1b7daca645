package bench

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// limited is a running function with a memory limit.
type limited struct {
	url   string
	pid   int
	limit string // describes the mechanism of the limit
}

// startLimited runs a program with a memory limit, in bytes, until the benchmark ends. If the process is allowed to
// create a control group, which requires root, the program runs in a control group with that limit. Otherwise, the
// program runs with GOMEMLIMIT, which is not enforced.
func startLimited(b testing.TB, limit int, binary string, env []string) *limited {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	l := &limited{url: "http://" + address}
	cmd := exec.Command(binary)
	if cmd.Env, err = servertest.Environment(b.TempDir(), env); err != nil {
		b.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "HOST=127.0.0.1", "PORT="+port)
	if group, err := memoryGroup(limit); err == nil {
		b.Cleanup(func() {
			if err := os.Remove(group); err != nil {
				b.Errorf("remove the control group: %v", err)
			}
		})
		// The shell joins the control group and then executes the program.
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `echo $$ > "$0" && exec "$1"`, filepath.Join(group, "cgroup.procs"), binary}
		l.limit = "the control group " + group
	} else {
		// A GOMEMLIMIT in env takes precedence, because the last value of a variable counts.
		cmd.Env = append([]string{fmt.Sprintf("GOMEMLIMIT=%d", limit)}, cmd.Env...)
		l.limit = fmt.Sprintf("GOMEMLIMIT only, because no control group can be created: %v", err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	l.pid = cmd.Process.Pid
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("run %s: %v", filepath.Base(binary), err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(l.url + "/healthz")
		if err == nil {
			resp.Body.Close()
			return l
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not respond within 10 s: %v", filepath.Base(binary), err)
		}
	}
}

// memoryGroup creates a control group (version 1 or 2) with a memory limit in bytes, and returns its directory.
func memoryGroup(limit int) (dir string, err error) {
	for _, kind := range []struct{ root, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max"},
	} {
		dir, made := os.MkdirTemp(kind.root, "strongroom-bench-")
		if made != nil {
			err = errors.Join(err, made)
			continue
		}
		wrong := os.WriteFile(filepath.Join(dir, kind.file), []byte(strconv.Itoa(limit)), 0)
		if wrong == nil {
			return dir, nil
		}
		err = errors.Join(err, wrong, os.Remove(dir))
	}
	return "", err
}

// peak returns the maximum resident memory of the program so far, in bytes.
func (l *limited) peak(b testing.TB) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	b.Fatalf("/proc/%d/status has no VmHWM", l.pid)
	return 0
}

// cpu returns the CPU time that the program has used.
func (l *limited) cpu(b testing.TB) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.pid))
	if err != nil {
		b.Fatal(err)
	}
	const ticks = 100 // clock ticks per second (USER_HZ), which is 100 on every Linux
	fields := strings.Fields(string(text[strings.LastIndex(string(text), ")")+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / ticks
}

// ownCPU returns the CPU time that this process has used.
func ownCPU(b testing.TB) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
