package events_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

func stored(t testing.TB) event.Event {
	t.Helper()
	e, err := events.NewFileStored(t.Context(), info())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// wantUnavailable checks that err is a problem.Unavailable that does not show the password.
func wantUnavailable(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, problem.Unavailable) {
		t.Errorf("got error %v, want problem.Unavailable", err)
	}
	if err != nil && strings.Contains(err.Error(), "hush") {
		t.Errorf("got error %v, want one that does not show the password", err)
	}
}

func TestWrongURLs(t *testing.T) {
	for _, u := range []string{
		"", "amqp", "/path", "redis://u:hush@h", "amqp://", "amqp://u:hush@", "amqp://u:hush#@h:5672/", "amqp://u:hu/sh@h",
		"http://u:hush%zz@h", "amqp://u:hush@h:port", "amqp://u:hush @h", "amqp://u:hush@a,b:5672", "amqp://u:hush@a:5672,b:5672",
		"amqps://u:hush@h?verify=verify_none", "amqps://u:hush@h?verify=", "amqps://u:hush@h?verify=verify_peer&verify=verify_none",
	} {
		p, err := events.NewPublisher(u)
		if err == nil {
			t.Errorf("NewPublisher(%q): got %v, want an error", u, p)
		} else if !strings.HasPrefix(err.Error(), "EVENTS_URL_FILE: ") || strings.Contains(err.Error(), "hu") {
			t.Errorf("NewPublisher(%q): got error %v, want one that names EVENTS_URL_FILE and does not show the password", u, err)
		}
		err = events.DeclareTopology(t.Context(), u)
		if err == nil || !strings.HasPrefix(err.Error(), "EVENTS_ADMIN_URL_FILE: ") || strings.Contains(err.Error(), "hu") {
			t.Errorf("DeclareTopology(%q): got error %v, want one that names EVENTS_ADMIN_URL_FILE and does not show the password",
				u, err)
		}
		_, err = events.Redrive(t.Context(), u)
		if err == nil || !strings.HasPrefix(err.Error(), "EVENTS_ADMIN_URL_FILE: ") || strings.Contains(err.Error(), "hu") {
			t.Errorf("Redrive(%q): got error %v, want one that names EVENTS_ADMIN_URL_FILE and does not show the password", u, err)
		}
	}
	if err := events.DeclareTopology(t.Context(), "http://localhost"); err == nil {
		t.Error("DeclareTopology with an HTTP URL: got no error, want one")
	}
}

func TestInvalidEventIsNotUnavailable(t *testing.T) {
	for _, u := range []string{"amqp://127.0.0.1:1", "http://127.0.0.1:1"} {
		e := stored(t)
		e.SetID("")
		if err := servertest.Publisher(t, u).Publish(t.Context(), e); err == nil || errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: got error %v, want one other than problem.Unavailable, because a retry cannot succeed", u, err)
		}
	}
}

func TestPublishToSink(t *testing.T) {
	var got *http.Request
	var body []byte
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer sink.Close()
	p := servertest.Publisher(t, sink.URL+"/sink?tenant=1")
	if err := p.Publish(t.Context(), stored(t)); err != nil {
		t.Fatal(err)
	}
	if got.Method != http.MethodPost || got.URL.String() != "/sink?tenant=1" {
		t.Errorf("got %s %s, want POST /sink?tenant=1", got.Method, got.URL)
	}
	again := post(got.Header.Get("Content-Type"), string(body))
	if mode := again.Header.Get("Content-Type"); mode != "application/cloudevents+json" {
		t.Errorf("got Content-Type %q, want structured mode", mode)
	}
	if e, f, err := events.Decode(again.Header, body); err != nil || e.ID() != fileID || f.Name != info().Name {
		t.Errorf("decode the request at the sink: got event %v, data %+v and error %v, want event %s", e, f, err, fileID)
	}
}

// TestSinkAnswers proves that Publish fails after every status other than 2xx, and that it sends the event only once.
func TestSinkAnswers(t *testing.T) {
	for _, status := range []int{
		http.StatusFound, http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestTimeout,
		http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable,
	} {
		var calls atomic.Int32
		sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		wantUnavailable(t, servertest.Publisher(t, sink.URL).Publish(t.Context(), stored(t)))
		if calls.Load() != 1 {
			t.Errorf("status %d: got %d requests, want 1", status, calls.Load())
		}
		sink.Close()
	}
}

func TestSinkAway(t *testing.T) {
	sink := httptest.NewServer(nil)
	u, err := url.Parse(sink.URL)
	if err != nil {
		t.Fatal(err)
	}
	sink.Close()
	u.User = url.UserPassword("u", "hush")
	u.RawQuery = "key=hush"
	wantUnavailable(t, servertest.Publisher(t, u.String()).Publish(t.Context(), stored(t)))
}

func TestSinkBreaksOff(t *testing.T) {
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer sink.Close()
	wantUnavailable(t, servertest.Publisher(t, sink.URL+"?key=hush").Publish(t.Context(), stored(t)))
}

func TestSinkHangs(t *testing.T) {
	release := make(chan struct{})
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer sink.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantUnavailable(t, servertest.Publisher(t, sink.URL).Publish(ctx, stored(t)))
}

func TestClosedPublisher(t *testing.T) {
	for _, u := range []string{"amqp://127.0.0.1:1", "http://127.0.0.1:1"} {
		p, err := events.NewPublisher(u)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("%s: Close: %v", u, err)
		}
		wantUnavailable(t, p.Publish(t.Context(), stored(t)))
	}
}

func TestBrokerAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	p := servertest.Publisher(t, "amqp://u:hush@"+address)
	wantUnavailable(t, p.Publish(t.Context(), stored(t)))
	wantUnavailable(t, events.DeclareTopology(t.Context(), "amqp://u:hush@"+address))
	_, err = events.Redrive(t.Context(), "amqp://u:hush@"+address)
	wantUnavailable(t, err)
}

// TestBrokerHangs connects to a server that accepts connections but never sends anything.
func TestBrokerHangs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := servertest.Publisher(t, "amqp://u:hush@"+listener.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantUnavailable(t, p.Publish(ctx, stored(t)))
	// Without a deadline of the caller, the time limit of the publisher ends the wait.
	wantUnavailable(t, p.Publish(context.Background(), stored(t)))
}
