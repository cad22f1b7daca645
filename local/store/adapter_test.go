package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestAdapter(t *testing.T) {
	needRabbitMQ(t)
	rabbit, err := StartRabbitMQ(t.Context(), t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rabbit.Stop() })
	t.Run("RabbitMQ requires the password", func(t *testing.T) { wantRefusals(t, rabbit) })
	t.Run("missing queue", func(t *testing.T) { testAdapterWithoutQueue(t, rabbit) })
	t.Run("delivery", func(t *testing.T) { testDelivery(t, rabbit) })
}

func testAdapterWithoutQueue(t *testing.T, rabbit *Rabbit) {
	if _, err := Build(t.Context(), "adapter", t.Output()); err != nil { // build before the timeout of the start begins
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := StartAdapter(ctx, AdapterConfig{Dir: dir, RabbitURL: rabbit.URL, Queue: "absent", Sink: "http://127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "queue absent") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start with a missing queue: got %v, want an error that names the queue", err)
	}
	wantNoProcess(t, dir)
}

// testDelivery checks that the adapter delivers an event, that it retries while the sink is unavailable, and that no
// event is lost if the adapter crashes.
func testDelivery(t *testing.T, rabbit *Rabbit) {
	// limit bounds a delivery. It is long because the machine can be busy.
	const limit = 30 * time.Second

	var status atomic.Int32
	status.Store(http.StatusOK)
	received, release := make(chan string, 100), make(chan struct{})
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var data struct{ Number int }
		err := json.NewDecoder(r.Body).Decode(&data)
		answer := int(status.Load())
		received <- fmt.Sprintf("%s %s %d %v %d", r.Header.Get("Ce-Type"), r.Header.Get("Ce-Id"), data.Number, err, answer)
		if answer == http.StatusProcessing {
			<-release
			return
		}
		w.WriteHeader(answer)
	}))
	t.Cleanup(func() {
		close(release) // otherwise, Close would wait for the handler
		sink.Close()
	})
	want := func(id string, answer int) {
		t.Helper()
		select {
		case got := <-received:
			if want := fmt.Sprintf("test.numbered %s 7 <nil> %d", id, answer); got != want {
				t.Errorf("the sink received %q, want %q", got, want)
			}
		case <-time.After(limit):
			t.Fatalf("event %s did not arrive within %s", id, limit)
		}
	}

	publish := publisher(t, rabbit.URL)
	adapter, err := StartAdapter(t.Context(), AdapterConfig{
		Dir: t.TempDir(), RabbitURL: rabbit.URL, Queue: queue, Sink: sink.URL,
		Parallelism: 2, Retry: 20, BackoffPolicy: "linear", BackoffDelay: "PT0.2S", Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = adapter.Stop() })

	publish("delivered")
	want("delivered", http.StatusOK)

	status.Store(http.StatusServiceUnavailable)
	publish("retried")
	want("retried", http.StatusServiceUnavailable)
	want("retried", http.StatusServiceUnavailable)
	status.Store(http.StatusOK)
	for got := ""; got != "test.numbered retried 7 <nil> 200"; {
		select {
		case got = <-received:
		case <-time.After(limit):
			t.Fatal(`event "retried" did not arrive after the sink had recovered`)
		}
	}

	status.Store(http.StatusProcessing) // makes the sink receive the event without a response
	publish("redelivered")
	want("redelivered", http.StatusProcessing)
	if err := adapter.Kill(); err != nil {
		t.Fatal(err)
	}
	status.Store(http.StatusOK)
	if err := adapter.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("redelivered", http.StatusOK)
}

// publisher declares the queue and returns a function that publishes a structured CloudEvent to the queue.
func publisher(t *testing.T, url string) func(id string) {
	t.Helper()
	m := messages{url: url}
	if err := m.connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.conn.Close() })
	return func(id string) {
		t.Helper()
		event := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/test","type":"test.numbered",`+
			`"time":"2024-01-02T03:04:05Z","datacontenttype":"application/json","data":{"number":7}}`, id)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		confirm, err := m.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
			ContentType: "application/cloudevents+json", DeliveryMode: amqp.Persistent, Body: []byte(event),
		})
		if err != nil {
			t.Fatal(err)
		}
		if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
			t.Fatalf("publish event %s: acknowledged %v, error %v", id, acked, err)
		}
	}
}

// wantRefusals checks that RabbitMQ rejects clients without the right user name and password.
func wantRefusals(t *testing.T, rabbit *Rabbit) {
	t.Helper()
	for _, user := range []*url.Userinfo{url.UserPassword("guest", "guest"), url.UserPassword(username, "wrong")} {
		refused, err := url.Parse(rabbit.URL)
		if err != nil {
			t.Fatal(err)
		}
		refused.User = user
		if err := pingAMQP(refused.String()); !errors.Is(err, amqp.ErrCredentials) {
			t.Errorf("sign in as %s: got %v, want %v", user, err, amqp.ErrCredentials)
		}
	}
}
