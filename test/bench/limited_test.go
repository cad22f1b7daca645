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
)

// limited is a function that runs with a limit on its memory.
type limited struct {
	url   string
	pid   int
	limit string // what holds it to the limit
}

// startLimited runs a program until the benchmark ends, in a control group with a limit on its memory where the machine
// lets us make one (as root), and else with Go's own limit, which nothing enforces.
func startLimited(b *testing.B, limit int, binary string, env []string) *limited {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	l := &limited{url: "http://" + address}
	cmd := exec.Command(binary)
	cmd.Env = append(env, "HOST=127.0.0.1", "PORT="+port)
	if group, err := memoryGroup(limit); err == nil {
		b.Cleanup(func() {
			if err := os.Remove(group); err != nil {
				b.Errorf("remove the control group: %v", err)
			}
		})
		// The shell enters the group and becomes the program.
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `echo $$ > "$0" && exec "$1"`, filepath.Join(group, "cgroup.procs"), binary}
		l.limit = "the control group " + group
	} else {
		cmd.Env = append([]string{fmt.Sprintf("GOMEMLIMIT=%d", limit)}, cmd.Env...) // one of the program's own goes before it
		l.limit = fmt.Sprintf("GOMEMLIMIT alone: %v", err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	l.pid = cmd.Process.Pid
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v", filepath.Base(binary), err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(l.url + "/healthz")
		if err == nil {
			resp.Body.Close()
			return l
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not answer: %v", filepath.Base(binary), err)
		}
	}
}

// memoryGroup makes a control group of version 1 or 2 with a limit on its memory, in bytes.
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

// peak returns the most memory that the program has had resident, in bytes.
func (l *limited) peak(b *testing.B) int {
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
	b.Fatal("there is no VmHWM")
	return 0
}

// cpu returns how much time of a core the program has taken.
func (l *limited) cpu(b *testing.B) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.pid))
	if err != nil {
		b.Fatal(err)
	}
	const ticks = 100 // a second, on every Linux (USER_HZ)
	fields := strings.Fields(string(text[strings.LastIndex(string(text), ")")+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / ticks
}

// ownCPU returns how much time of a core this process has taken.
func ownCPU(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
