package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/local/process"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// startTimeout is how long a function's process may take to become ready. It is long because a concurrent build
	// can slow down the machine.
	startTimeout = 30 * time.Second
	// stopTimeout is how long a process may take to end after SIGTERM before it is killed. A function needs up to 10
	// seconds of this time to complete its requests.
	stopTimeout = 15 * time.Second
	// pollInterval is the time between two health checks of a process that is starting.
	pollInterval = 5 * time.Millisecond
	// defaultTimeout is Knative's default for timeoutSeconds, the maximum duration of a request.
	defaultTimeout = 300 * time.Second
	// defaultIdle is Knative's default for the window annotation. If a function receives no requests for this long,
	// Knative scales it to zero.
	defaultIdle = 60 * time.Second
	// hops is the number of proxies that add an address to X-Forwarded-For before a request reaches a function. On
	// this machine, only the proxy from newProxy adds an address.
	hops = 1
)

// The runner supports the following label and annotations of a Knative Service.
const (
	visibilityLabel    = "networking.knative.dev/visibility"
	windowAnnotation   = "autoscaling.knative.dev/window"
	minScaleAnnotation = "autoscaling.knative.dev/min-scale"
)

// function runs a Knative Service on this machine. It has at most one process, regardless of the Service's
// max-scale annotation.
type function struct {
	name string
	// public reports whether clients outside the system can call the function. It is false if the visibility label
	// in the function's manifest is cluster-local.
	public      bool
	binary      string
	environment []string
	// timeout is how long a request may take, including the time that it waits for a slot and for the process to start.
	timeout time.Duration
	// idle is how long the process may remain idle before the runner stops it. 0 means that the runner never stops an
	// idle process.
	idle time.Duration
	// slots is a channel that contains one element for each active request. Its capacity is the maximum number of
	// concurrent requests. The channel is nil if the manifest sets no limit.
	slots chan struct{}
	out   *output

	mu     sync.Mutex
	closed bool
	active int       // number of requests that are using an instance or waiting for it to start
	used   time.Time // time at which the last request ended
	now    *instance // instance that receives new requests; nil if none is starting or running
	before *instance // previous instance, which might still be stopping; nil if now is the first
	timer  *time.Timer
}

// instance is one process of a function, from its start to its end.
type instance struct {
	started   chan struct{}    // closed when the process is ready or its start has failed
	err       error            // why the start failed, or nil; valid after started is closed
	ended     chan struct{}    // closed when the process has ended or has failed to start
	process   *process.Process // nil until the process is launched
	log       *lineWriter      // output of the process
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

// newFunction returns the function for the manifest s. binary is the path of the function's program. If idle is not
// 0, it overrides the window annotation in the manifest.
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
			"TRUSTED_HOPS=" + strconv.Itoa(hops), // overrides the manifest's value, which is correct only in a cluster
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

// ServeHTTP forwards the request to the function's process. If no process is running, ServeHTTP first starts one.
func (f *function) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), f.timeout)
	defer cancel()
	if f.slots != nil {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		case <-ctx.Done():
			fail(w, r, problem.Unavailable.Because(ctx.Err(), f.name+" has too many concurrent requests"))
			return
		}
	}
	in, err := f.acquire(ctx)
	if err != nil {
		fail(w, r, err)
		return
	}
	defer f.release()
	// By default, net/http reads an HTTP/1 request body to its end before it sends the response. Full duplex lets
	// the function respond earlier.
	_ = http.NewResponseController(w).EnableFullDuplex() // has no effect on HTTP/2, which is always full duplex
	in.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// acquire returns an instance that is ready for requests. After a successful call, the caller must call release, so
// that the runner can stop the instance when it is idle.
func (f *function) acquire(ctx context.Context) (*instance, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, problem.Unavailable.Because(errors.New("the runner is stopping"), "the system is stopping")
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
		return nil, problem.Unavailable.Because(in.err, f.name+" could not be started: see the output of \"make run\"")
	}
	return in, nil
}

// release records that a request no longer uses the instance that acquire returned. If no request is active, release
// starts the timer that stops the idle instance.
func (f *function) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
	f.used = time.Now()
	if f.active == 0 && f.idle > 0 && !f.closed {
		f.timer = time.AfterFunc(f.idle, f.expire)
	}
}

// expire stops the current instance, but only if the instance is still idle, because a request might have arrived after
// the timer fired.
func (f *function) expire() {
	f.mu.Lock()
	in := f.now
	if in == nil || f.active > 0 || time.Since(f.used) < f.idle {
		f.mu.Unlock()
		return
	}
	f.retire(in)
	f.mu.Unlock()
	f.out.say("run", "%s had no requests for %s: stopping it", f.name, f.idle)
	in.stop()
}

// retire makes sure that the given instance gets no new requests, so that the next request starts another instance. The
// caller must hold f.mu.
func (f *function) retire(in *instance) {
	if f.now == in {
		f.now, f.before = nil, in
	}
}

// run starts a new instance after the previous instance, if any, has ended. When the process of the new instance
// ends, run retires the instance.
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
			_ = in.process.Kill() // the error would only say that the process is still running
		}
		f.mu.Lock()
		f.retire(in)
		f.mu.Unlock()
		f.out.say("run", "could not start %s: %v", f.name, in.err)
	}
	close(in.started)
	if in.err != nil {
		return
	}
	<-in.process.Done()
	f.mu.Lock()
	wanted := f.now == in && !f.closed
	f.retire(in)
	f.mu.Unlock()
	if wanted {
		f.out.say("run", "%s ended unexpectedly: %s; the next request restarts it", f.name, outcome(in.process, in.log))
	}
	in.transport.CloseIdleConnections()
}

// start launches the given instance's process and waits until the process is ready for requests.
func (f *function) start(in *instance) error {
	port, err := process.FreePort()
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
	in.log = f.out.lines(f.name)
	if in.process, err = launch(f.binary, environment, in.log); err != nil {
		return err
	}
	address := process.Address(port)
	in.transport = newTransport(f.timeout)
	in.proxy = newProxy(f.name, address, in.transport)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := &http.Client{Transport: in.transport}
	err = in.process.Await(ctx, pollInterval, func(ctx context.Context) error { return healthy(ctx, client, address) })
	if last := in.log.lastLine(); err != nil && last != "" {
		err = fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// launch starts the program at path with the given environment, and sends the program's output to the given
// lineWriter.
func launch(path string, environment []string, log *lineWriter) (*process.Process, error) {
	cmd := exec.Command(path)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment, log, log
	return process.Start(cmd, log.flush)
}

// outcome returns the exit status of a process that has ended, and the last line of its output.
func outcome(p *process.Process, log *lineWriter) string {
	if last := log.lastLine(); last != "" {
		return p.Status() + ": " + last
	}
	return p.Status()
}

// healthy returns an error if the function at address does not respond to GET /healthz with status 200.
func healthy(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /healthz: unexpected response status %s", response.Status)
	}
	return nil
}

// stop waits until the instance has started, stops its process, and returns when the process has ended.
func (in *instance) stop() {
	<-in.started
	if in.err == nil {
		_ = in.process.Stop(stopTimeout) // the error would only say that the process is still running
	}
	<-in.ended
}

// close stops the function's processes. Afterward, the function responds to each request with 503.
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
