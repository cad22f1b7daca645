package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestInterval(t *testing.T) {
	for schedule, want := range map[string]time.Duration{
		"* * * * *": time.Minute, "*/1 * * * *": time.Minute, "*/5 * * * *": 5 * time.Minute, "*/30 * * * *": 30 * time.Minute,
	} {
		if got, err := interval(schedule); err != nil || got != want {
			t.Errorf("%q: got %s, %v, want %s", schedule, got, err, want)
		}
	}
	for _, schedule := range []string{"", "5 * * * *", "*/5", "*/0 * * * *", "*/7 * * * *", "*/90 * * * *", "*/5 * * * 1", "@hourly", "*/5 * * * * "} {
		if got, err := interval(schedule); err == nil || !strings.Contains(err.Error(), schedule) {
			t.Errorf("%q: got %s, %v, want an error that contains the schedule", schedule, got, err)
		}
	}
}

// newPinger returns a pinger that pings handler every five minutes, and the output of the runner.
func newPinger(t *testing.T, handler http.Handler) (*pinger, *screen) {
	t.Helper()
	at, err := serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(at.close)
	at.handle(handler)
	shows := &screen{}
	p := &pinger{interval: 5 * time.Minute, url: at.url(), out: &output{w: shows}}
	p.source.Metadata = metadata{Name: "timer", Namespace: "strongroom"}
	p.source.Spec.Sink.Ref.Name = "sweep"
	return p, shows
}

func TestPing(t *testing.T) {
	var got http.Header
	status := http.StatusOK
	p, _ := newPinger(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got = r.Header; r.Method != http.MethodPost || r.ContentLength != 0 {
			t.Errorf("got %s with %d bytes, want POST without a body", r.Method, r.ContentLength)
		}
		w.WriteHeader(status)
	}))
	now := time.Date(2026, 3, 1, 13, 5, 0, 0, time.FixedZone("", 3600))
	if err := p.ping(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Type": "dev.knative.sources.ping", "Ce-Time": "2026-03-01T12:05:00Z",
		"Ce-Source": "/apis/v1/namespaces/strongroom/pingsources/timer",
	} {
		if got.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.Get(name), want)
		}
	}
	first := got.Get("Ce-Id")
	if err := p.ping(t.Context(), now); err != nil || first == "" || got.Get("Ce-Id") == first {
		t.Errorf("got the event IDs %q and %q (error %v), want two different IDs", first, got.Get("Ce-Id"), err)
	}
	status = http.StatusServiceUnavailable
	if err := p.ping(t.Context(), now); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want an error that contains 503", err)
	}
}

// TestPinger checks that a pinger continues after a failed ping and that it can be stopped during a delivery.
func TestPinger(t *testing.T) {
	var pings atomic.Int32
	hold, held := make(chan struct{}), make(chan struct{})
	p, shows := newPinger(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if pings.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		close(held)
		<-hold
	}))
	defer close(hold)
	p.interval = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		p.run(ctx)
		close(ended)
	}()
	<-held
	cancel()
	<-ended
	if got := shows.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "could not ping sweep: unexpected response status 503") {
		t.Errorf("got the output %q, want exactly one message, about the failed ping", got)
	}
}

func TestPingerKeepsToTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The address is invalid, so that each ping fails immediately and only the clock takes time.
		p := &pinger{interval: 5 * time.Minute, url: "http://\x00", out: &output{w: &screen{}}}
		time.Sleep(7 * time.Minute) // the clock of a synctest bubble starts at a full hour
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		p.run(ctx)
		if got := strings.Count(p.out.w.(*screen).String(), "could not ping"); got != 2 {
			t.Errorf("got %d pings between minute 7 and minute 17, want 2, at minutes 10 and 15", got)
		}
	})
}
