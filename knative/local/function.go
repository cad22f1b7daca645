package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// defaultTimeout and defaultIdle are Knative's: a request's timeoutSeconds, and the window after which a function
	// without requests is scaled to zero.
	defaultTimeout = 300 * time.Second
	defaultIdle    = 60 * time.Second
	// hops is the number of proxies in front of a function that add an address to X-Forwarded-For: the proxy of newProxy. In
	// a cluster there are more.
	hops = 1
)

// Labels and annotations of Knative Serving that the runner heeds.
const (
	visibilityLabel    = "networking.knative.dev/visibility"
	windowAnnotation   = "autoscaling.knative.dev/window"
	minScaleAnnotation = "autoscaling.knative.dev/min-scale"
)

// function is a Knative Service on this machine: one process at most, whatever its max-scale, that is started by the
// first request and stopped when idle.
type function struct {
	name string
	// public is false where the manifest says cluster-local.
	public      bool
	binary      string
	environment []string
	// timeout bounds a request, its waits for a slot and for the process's start included.
	timeout time.Duration
	// idle is how long a process without requests lives; 0 for ever.
	idle time.Duration
	// slots holds one element for each request that the process has, nil for any number.
	slots chan struct{}
	out   *output

	mu     sync.Mutex
	closed bool
	active int       // requests that have the instance or wait for it
	used   time.Time // when a request last had it
	now    *instance // the one that takes requests, nil for none
	before *instance // the one before it, which may still be stopping
	timer  *time.Timer
}

// instance is a process of a function.
type instance struct {
	started   chan struct{} // closed once it answers or has failed to
	err       error         // why it does not answer; read after started
	ended     chan struct{} // closed once no process of it is left
	process   *process      // nil until launched
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

// newFunction reads from a manifest what the runner needs. idle, if not 0, replaces what the manifest says.
func newFunction(s service, binary string, environment []string, idle time.Duration, out *output) (*function, error) {
	spec, annotations := s.Spec.Template.Spec, s.Spec.Template.Metadata.Annotations
	f := &function{
		name:    s.Metadata.Name,
		public:  s.Metadata.Labels[visibilityLabel] != "cluster-local",
		binary:  binary,
		timeout: time.Duration(spec.TimeoutSeconds) * time.Second,
		idle:    idle,
		out:     out,
		environment: slices.Concat(environment, []string{
			"HOST=127.0.0.1",
			"TRUSTED_HOPS=" + strconv.Itoa(hops), // instead of the number in the manifest
			"K_SERVICE=" + s.Metadata.Name,
			"K_CONFIGURATION=" + s.Metadata.Name,
			"K_REVISION=" + s.Metadata.Name + "-00001",
		}),
	}
	if f.timeout == 0 {
		f.timeout = defaultTimeout
	}
	if spec.ContainerConcurrency > 0 {
		f.slots = make(chan struct{}, spec.ContainerConcurrency)
	}
	if f.idle == 0 {
		f.idle = defaultIdle
		if window, ok := annotations[windowAnnotation]; ok {
			var err error
			if f.idle, err = time.ParseDuration(window); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", f.name, windowAnnotation, err)
			}
		}
	}
	if scale, ok := annotations[minScaleAnnotation]; ok && scale != "0" {
		f.idle = 0
	}
	return f, nil
}

// ServeHTTP passes the request to the function's process, starting it if there is none.
func (f *function) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), f.timeout)
	defer cancel()
	if f.slots != nil {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		case <-ctx.Done():
			fail(w, r, problem.Unavailable.Because(ctx.Err(), f.name+" has more requests than it takes"))
			return
		}
	}
	in, err := f.acquire(ctx)
	if err != nil {
		fail(w, r, err)
		return
	}
	defer f.release()
	// Or net/http would hold the answer back until the whole body has been read. HTTP/2 never does, and refuses this.
	_ = http.NewResponseController(w).EnableFullDuplex()
	in.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// acquire returns the instance once it answers. Each success must be followed by a release.
func (f *function) acquire(ctx context.Context) (*instance, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, problem.Unavailable.Because(errors.New("the runner is stopping"), "the system is being stopped")
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.now == nil {
		f.now = &instance{started: make(chan struct{}), ended: make(chan struct{})}
		go f.run(f.now, f.before)
	}
	in := f.now
	f.active++
	f.mu.Unlock()
	select {
	case <-in.started:
	case <-ctx.Done():
		f.release()
		return nil, problem.Unavailable.Because(ctx.Err(), f.name+" did not start in time")
	}
	if in.err != nil {
		f.release()
		return nil, problem.Unavailable.Because(in.err, f.name+" does not start; the output of make run says why")
	}
	return in, nil
}

// release gives back what acquire counted, and lets the idle time begin after the last one.
func (f *function) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
	f.used = time.Now()
	if f.active == 0 && f.idle > 0 && !f.closed {
		f.timer = time.AfterFunc(f.idle, f.expire)
	}
}

// expire stops the instance if it has really been idle: a request may have come between the timer's end and this call.
func (f *function) expire() {
	f.mu.Lock()
	in := f.now
	if in == nil || f.active > 0 || time.Since(f.used) < f.idle {
		f.mu.Unlock()
		return
	}
	f.retire(in)
	f.mu.Unlock()
	f.out.say("run", "%s had no request for %s: stopping it", f.name, f.idle)
	in.stop()
}

// retire makes the next request start another instance. The caller holds mu.
func (f *function) retire(in *instance) {
	if f.now == in {
		f.now, f.before = nil, in
	}
}

// run starts in, after before has ended, and sees to it that its end is noticed.
func (f *function) run(in, before *instance) {
	defer close(in.ended)
	if before != nil {
		<-before.ended
	}
	begin := time.Now()
	in.err = f.start(in)
	if in.err == nil {
		f.out.say("run", "%s started in %d ms", f.name, time.Since(begin).Milliseconds())
	} else {
		if in.process != nil {
			in.process.kill()
		}
		f.mu.Lock()
		f.retire(in)
		f.mu.Unlock()
		f.out.say("run", "%s does not start: %v", f.name, in.err)
	}
	close(in.started)
	if in.err != nil {
		return
	}
	<-in.process.done
	f.mu.Lock()
	wanted := f.now == in && !f.closed
	f.retire(in)
	f.mu.Unlock()
	if wanted {
		f.out.say("run", "%s ended by itself: %s; the next request starts it again", f.name, in.process.outcome())
	}
	in.transport.CloseIdleConnections()
}

// start launches the process of in and returns once it answers.
func (f *function) start(in *instance) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return errors.New("the runner is stopping")
	}
	environment := append(slices.Clone(f.environment), "PORT="+strconv.Itoa(port))
	if in.process, err = launch(f.binary, environment, f.out.lines(f.name)); err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	in.transport = newTransport(f.timeout)
	in.proxy = newProxy(f.name, address, in.transport)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return in.process.await(ctx, &http.Client{Transport: in.transport}, address)
}

// stop ends the process of in and returns when it has ended.
func (in *instance) stop() {
	<-in.started
	if in.err == nil {
		in.process.stop()
	}
	<-in.ended
}

// close stops the function for good.
func (f *function) close() {
	f.mu.Lock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	now, before := f.now, f.before
	f.mu.Unlock()
	for _, in := range []*instance{now, before} {
		if in != nil {
			in.stop()
		}
	}
}
