package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestFirstRequestsStartOneProcess(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	url := front(t, f)
	if f.now != nil {
		t.Fatal("the process runs before the first request")
	}
	pids := make([]int, 20)
	var all sync.WaitGroup
	for i := range pids {
		all.Go(func() { pids[i] = get(t, url).Pid })
	}
	all.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Fatalf("got responses from the processes %v, want only one process", pids)
		}
	}
}

func TestIdleProcessIsStopped(t *testing.T) {
	f, shows := play(t, "f", "function", func(s *service) {
		s.Spec.Template.Metadata.Annotations = map[string]string{windowAnnotation: "30ms"}
	})
	url := front(t, f)
	first := get(t, url).Pid
	eventually(t, "the idle process ends", func() bool { return gone(first) })
	if second := get(t, url).Pid; second == first {
		t.Errorf("got the process %d again, want a new process", second)
	}
	if !strings.Contains(shows.String(), "f had no requests for 30ms: stopping it") || strings.Contains(shows.String(), "unexpectedly") {
		t.Errorf("got the output %q, want a message that f was idle", shows)
	}
}

func TestBusyProcessIsNotIdle(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	url := front(t, f)
	pid := get(t, url).Pid
	sender, body := lockstep(t, url+"/echo")
	sender("one")
	if got := body(); got != "one" {
		t.Fatalf("got %q, want one", got)
	}
	f.mu.Lock()
	f.used = time.Time{} // so that the function seems idle
	f.mu.Unlock()
	f.expire()
	sender("two")
	if got := body(); got != "two" {
		t.Fatalf("got %q, want two", got)
	}
	if got := get(t, url).Pid; got != pid {
		t.Errorf("got the process %d, want the busy process %d", got, pid)
	}
}

func TestMinScaleKeepsTheProcess(t *testing.T) {
	f, _ := play(t, "f", "function", func(s *service) {
		s.Spec.Template.Metadata.Annotations = map[string]string{minScaleAnnotation: "1", windowAnnotation: "1ms"}
	})
	get(t, front(t, f))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		t.Error("a function with min-scale 1 has an idle timer")
	}
}

func TestCrashedProcessIsStartedAgain(t *testing.T) {
	f, shows := play(t, "f", "function", nil)
	url := front(t, f)
	first := get(t, url).Pid
	response, err := http.Get(url + "/crash")
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "f closed the connection without a response")
	eventually(t, "the output reports the crash", func() bool {
		return strings.Contains(shows.String(), "f ended unexpectedly: exit status 3: boom")
	})
	if second := get(t, url).Pid; second == first {
		t.Errorf("got a response from the crashed process %d", first)
	}
}

func TestFunctionThatDoesNotStart(t *testing.T) {
	f, shows := play(t, "f", "failure", nil)
	url := front(t, f)
	for range 2 { // each request tries to start the process again
		response, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, response, http.StatusServiceUnavailable, "f could not be started")
	}
	shown := strings.Count(shows.String(), `run      | could not start f: local.test ended: exit status 1: `)
	if last := strings.Count(shows.String(), `ERROR stopped error="no database"`); shown != 2 || last != 4 {
		t.Errorf("got the output %q, want the last line of the process four times: twice as output and twice in an error", shows)
	}
}

func TestMissingBinary(t *testing.T) {
	f, shows := play(t, "f", "function", nil)
	f.binary = t.TempDir() + "/missing"
	response, err := http.Get(front(t, f))
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "f could not be started")
	if !strings.Contains(shows.String(), "no such file") {
		t.Errorf("got the output %q, want the reason that the start failed", shows)
	}
}

func TestConcurrencyLimit(t *testing.T) {
	f, _ := play(t, "f", "function", func(s *service) { s.Spec.Template.Spec.ContainerConcurrency = 2 })
	url := front(t, f)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			response, err := http.Get(url + "/crowd")
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			var most int
			if _, err := fmt.Fscan(response.Body, &most); err != nil || most > 2 {
				t.Errorf("got %d concurrent requests (%v), want at most 2", most, err)
			}
		})
	}
	all.Wait()
}

func TestNoSlotInTime(t *testing.T) {
	f, _ := play(t, "f", "function", func(s *service) { s.Spec.Template.Spec.ContainerConcurrency = 1 })
	f.timeout = 10 * time.Millisecond
	f.slots <- struct{}{} // occupies the only slot
	response, err := http.Get(front(t, f))
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "too many concurrent requests")
}

func TestRequestTimeout(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	url := front(t, f)
	get(t, url)
	f.timeout = 50 * time.Millisecond
	response, err := http.Get(url + "/hang")
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "f did not respond within its timeoutSeconds")
}

func TestClosedFunction(t *testing.T) {
	f, _ := play(t, "f", "function", nil)
	url := front(t, f)
	pid := get(t, url).Pid
	f.close()
	if !gone(pid) {
		t.Errorf("process %d is still running", pid)
	}
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, response, http.StatusServiceUnavailable, "the system is stopping")
}

func TestFunctionSettings(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*service)
		flag    time.Duration
		idle    time.Duration
		timeout time.Duration
		public  bool
	}{
		{"Knative's defaults", func(*service) {}, 0, time.Minute, 300 * time.Second, true},
		{"timeoutSeconds", func(s *service) { s.Spec.Template.Spec.TimeoutSeconds = 7 }, 0, time.Minute, 7 * time.Second, true},
		{"window", func(s *service) {
			s.Spec.Template.Metadata.Annotations = map[string]string{windowAnnotation: "90s"}
		}, 0, 90 * time.Second, 300 * time.Second, true},
		{"IDLE_TIMEOUT", func(s *service) {
			s.Spec.Template.Metadata.Annotations = map[string]string{windowAnnotation: "90s"}
		}, time.Second, time.Second, 300 * time.Second, true},
		{"cluster-local", func(s *service) {
			s.Metadata.Labels = map[string]string{visibilityLabel: "cluster-local"}
		}, 0, time.Minute, 300 * time.Second, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s service
			test.change(&s)
			f, err := newFunction(s, "", nil, test.flag, nil)
			if err != nil {
				t.Fatal(err)
			}
			if f.idle != test.idle || f.timeout != test.timeout || f.public != test.public {
				t.Errorf("got idle %s, timeout %s, public %t, want %s, %s, %t", f.idle, f.timeout, f.public, test.idle, test.timeout, test.public)
			}
		})
	}
	var s service
	s.Spec.Template.Metadata.Annotations = map[string]string{windowAnnotation: "soon"}
	if _, err := newFunction(s, "", nil, 0, nil); err == nil || !strings.Contains(err.Error(), windowAnnotation) {
		t.Errorf("got %v, want an error that names the annotation", err)
	}
}

// lockstep starts a request. It returns a function that sends a line of the request body and a function that receives a
// line of the response body.
func lockstep(t *testing.T, url string) (send func(string), receive func() string) {
	t.Helper()
	reader, writer := io.Pipe()
	t.Cleanup(func() { writer.Close() })
	answers := make(chan *http.Response, 1)
	go func() {
		response, err := http.Post(url, "text/plain", reader)
		if err != nil {
			t.Error(err)
			close(answers)
			return
		}
		answers <- response
	}()
	var lines *bufio.Reader
	send = func(line string) {
		if _, err := io.WriteString(writer, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	receive = func() string {
		if lines == nil {
			response := <-answers
			if response == nil {
				t.FailNow()
			}
			t.Cleanup(func() { response.Body.Close() })
			lines = bufio.NewReader(response.Body)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	return send, receive
}
