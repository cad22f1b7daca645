package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// recovery is within which time a publisher or a pipeline must work again once its servers do.
const recovery = 30 * time.Second

// topology deletes the exchanges and queues of the virtual host and declares them anew.
func topology(t *testing.T, broker vhost) {
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

// lastingTopology is topology for a broker that is killed afterwards. RabbitMQ notes within half a second which files belong to a
// quorum queue. If RabbitMQ is killed earlier, the queue is empty after the restart (4.3) or confirms no message (3.10).
func lastingTopology(t *testing.T, broker vhost) {
	t.Helper()
	topology(t, broker)
	time.Sleep(2 * time.Second)
}

// amqpChannel returns a channel of a connection that ends with the test.
func amqpChannel(t *testing.T, broker vhost) *amqp.Channel {
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
	broker := sharedRabbitMQ(t).newVhost(t)
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
	broker := sharedRabbitMQ(t).newVhost(t)
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
	broker := sharedRabbitMQ(t).newVhost(t)
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
	if password, _ := parseURL(t, broker.URL).User.Password(); err != nil && strings.Contains(err.Error(), password) {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestPublishRefused(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
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

	wantUnavailable(t, publisher(t, withPassword(t, broker.URL, "wrong")).Ready(t.Context()), false)
}

func TestPublishConcurrently(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
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

func TestRedrive(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	topology(t, broker)
	p := publisher(t, broker.URL)
	ch := amqpChannel(t, broker)
	redrive := func(want int) error {
		t.Helper()
		moved, err := events.Redrive(t.Context(), broker.URL)
		if moved != want {
			t.Errorf("moved %d dead letters, want %d", moved, want)
		}
		return err
	}
	if err := redrive(0); err != nil {
		t.Errorf("without dead letters: %v", err)
	}
	const n = 3
	bodies := map[string]string{}
	for range n {
		e, f := fileStored(t)
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		message, ok, err := ch.Get(events.Queue, false)
		if err != nil || !ok {
			t.Fatalf("get: %t, %v", ok, err)
		}
		bodies[f.ID] = string(message.Body)
		if err := message.Nack(false, false); err != nil { // as the adapter does
			t.Fatal(err)
		}
	}
	dead := func(want int) {
		t.Helper()
		eventually(t, recovery, fmt.Sprintf("%d dead letters", want), func() error {
			if got := depth(t, ch, events.DeadQueue); got != want {
				return fmt.Errorf("there are %d", got)
			}
			return nil
		})
	}
	dead(n)

	// Where they can not go back they stay.
	if err := ch.QueueUnbind(events.Queue, events.TypeFileStored, events.Exchange, nil); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, redrive(0), false)
	dead(n)

	if err := events.DeclareTopology(t.Context(), broker.URL); err != nil {
		t.Fatal(err)
	}
	if got, err := events.Lengths(t.Context(), broker.URL); err != nil || got != (events.Depths{Dead: n}) {
		t.Errorf("got the lengths %+v (%v), want %d dead letters", got, err, n)
	}
	if err := redrive(n); err != nil {
		t.Error(err)
	}
	dead(0)
	if got, err := events.Lengths(t.Context(), broker.URL); err != nil || got != (events.Depths{Waiting: n}) {
		t.Errorf("got the lengths %+v (%v), want %d events waiting", got, err, n)
	}
	for range n {
		message := get(t, ch, events.Queue)
		delete(message.Headers, "x-delivery-count") // the queue's own
		if string(message.Body) != bodies[message.MessageId] || message.ContentType != "application/cloudevents+json" ||
			message.DeliveryMode != amqp.Persistent || len(message.Headers) != 0 {
			t.Errorf("got %+v, want the message as it was published", message)
		}
	}
}

// TestPermissions gives each user the permissions of config/secrets.
func TestPermissions(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	const nothing = "^$"
	setup := broker.newUser(t, permissions{`^strongroom\..*`, `^strongroom\..*`, `^strongroom\..*`})
	upload := broker.newUser(t, permissions{nothing, `^strongroom\.events$`, nothing})
	sweep := broker.newUser(t, permissions{nothing, `^strongroom\.(events|files|files\.dead)$`, nothing})
	source := broker.newUser(t, permissions{nothing, nothing, `^strongroom\.files$`})
	if err := events.DeclareTopology(t.Context(), setup); err != nil {
		t.Errorf("setup declares: %v", err)
	}
	if err := events.DeclareTopology(t.Context(), upload); err == nil {
		t.Error("upload is allowed to declare")
	}
	for _, user := range []string{upload, sweep} {
		e, _ := fileStored(t)
		if err := publisher(t, user).Publish(t.Context(), e); err != nil {
			t.Errorf("publish: %v", err)
		}
	}
	// The broker refuses the event, so the outcome is known: nothing was stored.
	e, _ := fileStored(t)
	wantUnavailable(t, publisher(t, source).Publish(t.Context(), e), false)
	if got, err := events.Lengths(t.Context(), sweep); err != nil || got != (events.Depths{Waiting: 2}) {
		t.Errorf("sweep counts %+v (%v), want the 2 events of upload and sweep", got, err)
	}
	_, err := events.Lengths(t.Context(), withPassword(t, sweep, "wrong"))
	wantUnavailable(t, err, false)
}

// withPassword returns the URL of a store with another password.
func withPassword(t *testing.T, raw, password string) string {
	t.Helper()
	u := parseURL(t, raw)
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}
