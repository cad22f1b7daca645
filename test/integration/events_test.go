package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/knative/local/store"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// recovery is within which time a publisher or a pipeline must work again once its servers do.
const recovery = 30 * time.Second

// topology clears the broker of earlier tests and declares the topology anew.
func topology(t *testing.T, broker *store.Rabbit) {
	t.Helper()
	ch := amqpChannel(t, broker)
	for _, queue := range []string{events.Queue, events.DeadQueue} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, exchange := range []string{events.Exchange, events.DeadExchange} {
		if err := ch.ExchangeDelete(exchange, false, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := events.DeclareTopology(t.Context(), broker.URL); err != nil {
		t.Fatal(err)
	}
}

// amqpChannel returns a channel of a connection that ends with the test.
func amqpChannel(t *testing.T, broker *store.Rabbit) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have stopped the broker
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func publisher(t *testing.T, eventsURL string) events.Publisher {
	t.Helper()
	p, err := events.NewPublisher(eventsURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close the publisher: %v", err)
		}
	})
	return p
}

// fileStored returns a new event, and what it tells.
func fileStored(t *testing.T) (cloudevents.Event, events.FileStored) {
	t.Helper()
	f := events.FileStored{
		ID:          uuid.Must(uuid.NewV7()).String(),
		Owner:       uuid.Must(uuid.NewV7()).String(),
		Name:        "größe \"1\"\n.txt",
		Size:        1,
		SHA256:      strings.Repeat("0a", 32),
		ContentType: "text/plain; charset=utf-8",
		StoredAt:    time.Now().UTC().Truncate(time.Millisecond),
	}
	e, err := events.NewFileStored(f)
	if err != nil {
		t.Fatal(err)
	}
	return e, f
}

// wantUnavailable checks the error of a failed Publish or Ready.
func wantUnavailable(t *testing.T, err error, unknown bool) {
	t.Helper()
	if !errors.Is(err, problem.Unavailable) || errors.Is(err, events.ErrUnknown) != unknown {
		t.Errorf("got error %v, want problem.Unavailable, and ErrUnknown: %t", err, unknown)
	}
}

// depth returns how many messages are ready in a queue.
func depth(t *testing.T, ch *amqp.Channel, queue string) int {
	t.Helper()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// get waits for a message in a queue and takes it.
func get(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	var message amqp.Delivery
	eventually(t, recovery, "a message in "+queue, func() error {
		m, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return errors.New("the queue is empty")
		}
		message = m
		return nil
	})
	return message
}

func TestPublish(t *testing.T) {
	broker := rabbitmq(t)
	topology(t, broker)
	p := publisher(t, broker.URL)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	e, f := fileStored(t)
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	message := get(t, amqpChannel(t, broker), events.Queue)
	delete(message.Headers, "x-delivery-count") // the queue's own
	if message.ContentType != "application/cloudevents+json" || message.DeliveryMode != amqp.Persistent || len(message.Headers) != 0 {
		t.Errorf("got content type %q, delivery mode %d, headers %v; want a structured event, persistent, without headers",
			message.ContentType, message.DeliveryMode, message.Headers)
	}
	if message.MessageId != f.ID || message.Type != e.Type() || message.RoutingKey != e.Type() || message.Exchange != events.Exchange {
		t.Errorf("got id %q, type %q, routing key %q, exchange %q", message.MessageId, message.Type, message.RoutingKey, message.Exchange)
	}
	var got cloudevents.Event
	if err := json.Unmarshal(message.Body, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e.String(), got.String()); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestDeclareTopologySideBySide(t *testing.T) {
	broker := rabbitmq(t)
	topology(t, broker)
	e, _ := fileStored(t)
	if err := publisher(t, broker.URL).Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := events.DeclareTopology(t.Context(), broker.URL); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
	group.Wait()
	if n := depth(t, amqpChannel(t, broker), events.Queue); n != 1 {
		t.Errorf("%d messages in %s after declaring again, want 1", n, events.Queue)
	}
}

func TestDeclareTopologyOverOtherArguments(t *testing.T) {
	broker := rabbitmq(t)
	topology(t, broker)
	ch := amqpChannel(t, broker)
	if _, err := ch.QueueDelete(events.Queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(events.Queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	err := events.DeclareTopology(t.Context(), broker.URL)
	if !errors.Is(err, problem.Conflict) || !strings.Contains(err.Error(), events.Queue) {
		t.Errorf("got error %v, want problem.Conflict that names %s", err, events.Queue)
	}
	if err != nil && strings.Contains(err.Error(), broker.Password) {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestPublishRefused(t *testing.T) {
	broker := rabbitmq(t)
	topology(t, broker)
	ch := amqpChannel(t, broker)
	p := publisher(t, broker.URL)
	publish := func() error {
		e, _ := fileStored(t)
		return p.Publish(t.Context(), e)
	}
	recovers := func() {
		t.Helper()
		topology(t, broker)
		if err := publish(); err != nil {
			t.Errorf("once it is right again: %v", err)
		}
	}

	// No queue is bound: the broker acks all the same, and only the return tells.
	if err := ch.QueueUnbind(events.Queue, events.TypeFileStored, events.Exchange, nil); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, publish(), false)
	recovers()

	// No exchange: the channel dies after the library has reported success.
	if err := ch.ExchangeDelete(events.Exchange, false, false); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, publish(), false)
	recovers()

	// A queue that is full refuses.
	if _, err := ch.QueueDelete(events.Queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(events.Queue, true, false, false, false, amqp.Table{
		"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": 1,
	}); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(events.Queue, events.TypeFileStored, events.Exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	// A quorum queue notices its limit a little late, so some of the first are taken.
	eventually(t, recovery, "the queue is full", func() error {
		err := publish()
		if err == nil {
			return errors.New("the event was taken")
		}
		wantUnavailable(t, err, true)
		return nil
	})
	recovers()

	// Wrong credentials: nothing to connect with.
	wantUnavailable(t, publisher(t, strings.Replace(broker.URL, broker.Password, "wrong", 1)).Ready(t.Context()), false)
}

func TestPublishConcurrently(t *testing.T) {
	broker := rabbitmq(t)
	topology(t, broker)
	p := publisher(t, broker.URL)
	const n = 200
	var group sync.WaitGroup
	for range n {
		e, _ := fileStored(t)
		group.Go(func() {
			if err := p.Publish(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	ch := amqpChannel(t, broker)
	ids := map[string]bool{}
	for range n {
		ids[get(t, ch, events.Queue).MessageId] = true
	}
	if len(ids) != n {
		t.Errorf("%d different events in the queue, want %d", len(ids), n)
	}
}

// TestBrokerCrashes kills the broker under a publisher that is in use. Whatever was confirmed must be in the queue
// afterwards, and nothing that was surely refused.
func TestBrokerCrashes(t *testing.T) {
	broker := ownRabbitmq(t)
	topology(t, broker)
	// RabbitMQ forgets the way to a quorum queue when it crashes within half a second of the queue's declaration (it
	// then takes messages for it and confirms none). That is no part of this test; a restart in order settles it.
	if err := broker.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, broker.URL)

	const confirmed, refused = "confirmed", "refused"
	var mu sync.Mutex
	outcome := map[string]string{}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				e, f := fileStored(t)
				err := p.Publish(t.Context(), e)
				mu.Lock()
				switch {
				case err == nil:
					outcome[f.ID] = confirmed
				case !errors.Is(err, problem.Unavailable):
					t.Errorf("got error %v, want problem.Unavailable", err)
				case !errors.Is(err, events.ErrUnknown):
					outcome[f.ID] = refused
				}
				mu.Unlock()
				time.Sleep(time.Millisecond) // so that a broker that is away does not fill the map
			}
		})
	}
	count := func(what string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range outcome {
			if o == what {
				n++
			}
		}
		return n
	}
	more := func(what string, than int) {
		t.Helper()
		eventually(t, recovery, fmt.Sprintf("more than %d events %s", than, what), func() error {
			if n := count(what); n <= than {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	}
	more(confirmed, 50)
	if err := broker.Kill(); err != nil {
		t.Fatal(err)
	}
	more(refused, count(refused)+8)
	wantUnavailable(t, p.Ready(t.Context()), false)
	if err := broker.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	more(confirmed, count(confirmed)+50)
	stop()
	group.Wait()

	ch := amqpChannel(t, broker)
	kept := map[string]bool{}
	for {
		message, ok, err := ch.Get(events.Queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		kept[message.MessageId] = true
	}
	for id, o := range outcome {
		if kept[id] != (o == confirmed) {
			t.Errorf("event %s was %s; in the queue: %t", id, o, kept[id])
		}
	}
}

// TestBrokerBlocks raises a memory alarm: the broker then reads no more from connections that publish.
func TestBrokerBlocks(t *testing.T) {
	broker := ownRabbitmq(t)
	topology(t, broker)
	p := publisher(t, broker.URL)
	publish := func() error {
		e, _ := fileStored(t)
		return p.Publish(t.Context(), e)
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	rabbitmqctl(t, broker, "set_vm_memory_high_watermark", "absolute", "1")
	// The first event finds out; it may be stored when the alarm is over. From then on nothing is sent.
	eventually(t, recovery, "Ready says that the broker is blocked", func() error {
		if err := p.Ready(t.Context()); err != nil {
			wantUnavailable(t, err, false)
			return nil
		}
		if err := publish(); err != nil && !errors.Is(err, problem.Unavailable) {
			t.Errorf("got error %v, want problem.Unavailable", err)
		}
		return errors.New("it says that it is not")
	})
	wantUnavailable(t, publish(), false)
	rabbitmqctl(t, broker, "set_vm_memory_high_watermark", "0.4")
	eventually(t, recovery, "an event after the alarm", publish)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready after the alarm: %v", err)
	}
}

// rabbitmqctl runs RabbitMQ's tool against a private broker, with the environment of the broker itself.
func rabbitmqctl(t *testing.T, broker *store.Rabbit, args ...string) {
	t.Helper()
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", broker.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	tool := "/usr/lib/rabbitmq/bin/rabbitmqctl" // Debian's on PATH wants the system's user
	if _, err := os.Stat(tool); err != nil {
		if tool, err = exec.LookPath("rabbitmqctl"); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Env = strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00")
	cmd.Dir = filepath.Dir(servers.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
