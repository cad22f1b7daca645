package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// component is a process or a server that TestSoak kills.
type component struct {
	name string
	kill func() error
	// start starts the component and waits until it is ready. It also works while the component is running.
	start func(ctx context.Context) error
	// done returns a channel that is closed when the running process ends. It is nil for a server that never ends
	// unless it is killed.
	done func() <-chan struct{}
	// lasting reports whether the component must not end unless it is killed.
	lasting bool

	stopped bool         // whether the component has ended and was not started again yet
	kills   atomic.Int64 // how often the component was killed
	exits   atomic.Int64 // how often the component ended without being killed
}

// ensure starts the component if it is stopped.
func (c *component) ensure(ctx context.Context) error {
	if !c.stopped {
		return nil
	}
	err := c.start(ctx)
	c.stopped = err != nil
	return err
}

// supervise kills the component at random times and starts it again, until s.calm is closed. It also starts the
// component again if the component ends on its own, until ctx is done.
func (s *soak) supervise(ctx context.Context, t *testing.T, c *component) {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(c.name)) // never returns an error
	random := rand.New(rand.NewPCG(s.plan.seed, hash.Sum64()))
	wait, calm := randomTime(random, s.plan.every), s.calm
	for ctx.Err() == nil {
		var due <-chan time.Time
		if calm != nil && c.kills.Load() < s.plan.mostKills {
			due = time.After(wait)
		}
		var done <-chan struct{}
		if c.done != nil {
			done = c.done()
		}
		select {
		case <-ctx.Done():
			return
		case <-calm:
			calm = nil // a nil channel blocks forever
			continue
		case <-done:
			c.exits.Add(1)
			if c.lasting {
				t.Errorf("%s ended on its own, want it to run until it is killed", c.name)
			}
		case <-due:
			if err := c.kill(); err != nil {
				t.Errorf("kill %s: %v", c.name, err)
			}
			c.kills.Add(1)
		}
		c.stopped = true
		wait = s.plan.every/2 + randomTime(random, s.plan.every)
		for pause := randomTime(random, s.plan.down); ctx.Err() == nil; pause = 500 * time.Millisecond {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			// A start can fail, for example if the adapter finds no RabbitMQ server.
			if err := c.ensure(ctx); err == nil {
				break
			}
		}
	}
}

// soakFunction is the process of a function that can be killed and started again with the same settings.
type soakFunction struct {
	binary, log, url string
	env              []string

	mu      sync.Mutex
	running *process.Process
}

// addFunction starts the function called name, and adds it to s.components as the component called as. It returns the
// URL of the function. The function stops when the test ends.
func (s *soak) addFunction(t *testing.T, name, as string, settings ...string) string {
	t.Helper()
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	env, err := environment("", settings)
	if err != nil {
		t.Fatal(err)
	}
	f := &soakFunction{
		binary: build(t, name),
		log:    filepath.Join(s.logs, strings.ReplaceAll(as, " ", "-")+".log"),
		url:    "http://" + process.Address(port),
		env:    append([]string{"HOST=127.0.0.1", "PORT=" + strconv.Itoa(port)}, env...),
	}
	if err := f.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.running.Stop(servertest.Recovery); err != nil {
			t.Errorf("stop %s: %v", as, err)
		}
	})
	s.components = append(s.components, &component{name: as, kill: f.kill, start: f.start, done: f.done, lasting: true})
	return f.url
}

// start starts the process and waits until it serves requests.
func (f *soakFunction) start(ctx context.Context) error {
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(f.binary)
	cmd.Env, cmd.Stdout, cmd.Stderr = f.env, log, log
	p, err := process.Start(cmd, nil)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.running = p
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, servertest.Recovery)
	defer cancel()
	err = p.Await(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/healthz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("GET /healthz: got %s, want 200", response.Status)
		}
		if failed := closed(response); err == nil {
			err = failed
		}
		return err
	})
	if err != nil {
		_ = p.Kill() // the error of the start is more important
	}
	return err
}

// kill kills the process with SIGKILL.
func (f *soakFunction) kill() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running.Kill()
}

// done returns a channel that is closed when the running process has ended.
func (f *soakFunction) done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running.Done()
}

// sweepRepeatedly calls sweep every second, as the PingSource does every five minutes, until ctx is done.
func (s *soak) sweepRepeatedly(ctx context.Context) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.sweep, nil)
		if err != nil {
			return // never happens, because the URL is valid
		}
		response, err := client.Do(request)
		if err != nil {
			continue // sweep was killed
		}
		var counts struct{ Published int64 }
		if err := json.NewDecoder(response.Body).Decode(&counts); err == nil && response.StatusCode == http.StatusOK {
			s.sweeps.Add(1)
			s.published.Add(counts.Published)
		}
		_ = closed(response)
	}
}

// randomTime returns a pseudorandom duration that is not negative and is shorter than limit.
func randomTime(random *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(limit)))
}
