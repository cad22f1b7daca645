package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestPublish proves that Publish stores an event in the queue as a persistent CloudEvent in structured mode.
func TestPublish(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	e, f := servertest.FileStored(t)
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	message := servertest.GetMessage(t, servertest.Channel(t, broker), events.Queue)
	delete(message.Headers, "x-delivery-count") // added by the queue
	if message.ContentType != "application/cloudevents+json" || message.DeliveryMode != amqp.Persistent || len(message.Headers) != 0 {
		t.Errorf("got content type %q, delivery mode %d, headers %v, want application/cloudevents+json, persistent, no headers",
			message.ContentType, message.DeliveryMode, message.Headers)
	}
	if message.MessageId != f.ID || message.Type != e.Type() || message.RoutingKey != e.Type() || message.Exchange != events.Exchange {
		t.Errorf("got message ID %q, type %q, routing key %q, exchange %q, want %q, %q, %q, %q",
			message.MessageId, message.Type, message.RoutingKey, message.Exchange, f.ID, e.Type(), e.Type(), events.Exchange)
	}
	var got cloudevents.Event
	if err := json.Unmarshal(message.Body, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e.String(), got.String()); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

// TestDeclareTopologyConcurrently proves that concurrent declarations of an existing topology succeed and lose no
// message.
func TestDeclareTopologyConcurrently(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	e, _ := servertest.FileStored(t)
	if err := servertest.Publisher(t, broker.URL).Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := events.DeclareTopology(t.Context(), broker.URL); err != nil {
				t.Errorf("declare the topology again: %v", err)
			}
		})
	}
	group.Wait()
	if n := servertest.QueueDepth(t, servertest.Channel(t, broker), events.Queue); n != 1 {
		t.Errorf("got %d messages in %s after further declarations, want 1", n, events.Queue)
	}
}

// TestDeclareTopologyOverOtherArguments proves that the declaration fails with problem.Conflict if a queue exists with
// other arguments. The error names the queue and does not contain the password.
func TestDeclareTopologyOverOtherArguments(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	ch := servertest.Channel(t, broker)
	if _, err := ch.QueueDelete(events.Queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(events.Queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	err := events.DeclareTopology(t.Context(), broker.URL)
	if !errors.Is(err, problem.Conflict) || !strings.Contains(err.Error(), events.Queue) {
		t.Errorf("got error %v, want a problem.Conflict that names %s", err, events.Queue)
	}
	if password, _ := servertest.ParseURL(t, broker.URL).User.Password(); err != nil && strings.Contains(err.Error(), password) {
		t.Errorf("the error contains the password: %v", err)
	}
}

// TestPublishRefused proves that Publish fails with problem.Unavailable if RabbitMQ does not store the event, and works
// again after the cause is repaired.
func TestPublishRefused(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	ch := servertest.Channel(t, broker)
	p := servertest.Publisher(t, broker.URL)
	publish := func() error {
		e, _ := servertest.FileStored(t)
		return p.Publish(t.Context(), e)
	}
	recovers := func() {
		t.Helper()
		servertest.ResetTopology(t, broker)
		if err := publish(); err != nil {
			t.Errorf("publish after the topology was repaired: %v", err)
		}
	}

	// No queue is bound to the exchange. RabbitMQ acknowledges the event even so. Only the returned message shows that
	// no queue has it.
	for _, queue := range []string{events.Queue, events.Journal} {
		if err := ch.QueueUnbind(queue, events.TypeFileStored, events.Exchange, nil); err != nil {
			t.Fatal(err)
		}
	}
	wantUnavailable(t, publish())
	recovers()

	// The exchange does not exist. RabbitMQ closes the channel, but the library reports success before that.
	if err := ch.ExchangeDelete(events.Exchange, false, false); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, publish())
	recovers()

	// The queue is full and rejects the event.
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
	// A quorum queue accepts a few events above its limit before it rejects events.
	servertest.Eventually(t, servertest.Recovery, "the queue rejects events", func() error {
		err := publish()
		if err == nil {
			return errors.New("the event was accepted")
		}
		wantUnavailable(t, err)
		return nil
	})
	recovers()

	e, _ := servertest.FileStored(t)
	wantUnavailable(t, servertest.Publisher(t, servertest.WithPassword(t, broker.URL, "wrong")).Publish(t.Context(), e))
}

// TestPublishConcurrently proves that one publisher can publish many events concurrently without losing any.
func TestPublishConcurrently(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	const n = 200
	var group sync.WaitGroup
	for range n {
		e, _ := servertest.FileStored(t)
		group.Go(func() {
			if err := p.Publish(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	ch := servertest.Channel(t, broker)
	ids := map[string]bool{}
	for range n {
		ids[servertest.GetMessage(t, ch, events.Queue).MessageId] = true
	}
	if len(ids) != n {
		t.Errorf("got %d different events in the queue, want %d", len(ids), n)
	}
}

// TestRedrive proves that Redrive moves all dead letters back to the queue unchanged, and that dead letters without a
// route stay in the dead-letter queue. Lengths must return the correct numbers.
func TestRedrive(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	ch := servertest.Channel(t, broker)
	redrive := func(want int) error {
		t.Helper()
		moved, err := events.Redrive(t.Context(), broker.URL)
		if moved != want {
			t.Errorf("Redrive: got %d moved dead letters, want %d", moved, want)
		}
		return err
	}
	if err := redrive(0); err != nil {
		t.Errorf("redrive without dead letters: %v", err)
	}
	const n = 3
	bodies := map[string]string{}
	for range n {
		e, f := servertest.FileStored(t)
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		message, ok, err := ch.Get(events.Queue, false)
		if err != nil || !ok {
			t.Fatalf("get a message: got %t, %v, want true", ok, err)
		}
		bodies[f.ID] = string(message.Body)
		if err := message.Nack(false, false); err != nil { // the adapter rejects a message in the same way
			t.Fatal(err)
		}
	}
	dead := func(want int) {
		t.Helper()
		servertest.Eventually(t, servertest.Recovery, fmt.Sprintf("the dead-letter queue has %d messages", want), func() error {
			if got := servertest.QueueDepth(t, ch, events.DeadQueue); got != want {
				return fmt.Errorf("got %d", got)
			}
			return nil
		})
	}
	dead(n)

	// RabbitMQ cannot route the dead letters to any queue, so they stay in the dead-letter queue.
	for _, queue := range []string{events.Queue, events.Journal} {
		if err := ch.QueueUnbind(queue, events.TypeFileStored, events.Exchange, nil); err != nil {
			t.Fatal(err)
		}
	}
	wantUnavailable(t, redrive(0))
	dead(n)
	// The same applies if Queue does not exist, although Journal exists.
	if _, err := ch.QueueDelete(events.Queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := redrive(0); err == nil {
		t.Error("redrive without the queue: got no error, want an error")
	}
	dead(n)

	if err := events.DeclareTopology(t.Context(), broker.URL); err != nil {
		t.Fatal(err)
	}
	if got, err := events.QueueDepths(t.Context(), broker.URL); err != nil || got != (events.Depths{Dead: n}) {
		t.Errorf("Lengths: got %+v (%v), want %d dead letters", got, err, n)
	}
	if err := redrive(n); err != nil {
		t.Errorf("redrive %d dead letters: %v", n, err)
	}
	dead(0)
	if got, err := events.QueueDepths(t.Context(), broker.URL); err != nil || got != (events.Depths{Waiting: n}) {
		t.Errorf("Lengths: got %+v (%v), want %d waiting events", got, err, n)
	}
	for range n {
		message := servertest.GetMessage(t, ch, events.Queue)
		delete(message.Headers, "x-delivery-count") // added by the queue
		if string(message.Body) != bodies[message.MessageId] || message.ContentType != "application/cloudevents+json" ||
			message.DeliveryMode != amqp.Persistent || len(message.Headers) != 0 {
			t.Errorf("got the message %+v, want the published message", message)
		}
	}
}

// TestJournal proves that ReadJournal returns the files of all events in the order of their publication, also after the
// events have been delivered. It skips other messages.
func TestJournal(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	invalid := 0
	read := func() (ids []string, err error) {
		n, skipped, err := events.ReadJournal(t.Context(), broker.URL, func(files []file.Info) error {
			for _, f := range files {
				ids = append(ids, f.ID)
			}
			return nil
		})
		if err == nil && (n != len(ids) || skipped != invalid) {
			t.Errorf("got %d events and %d other messages, want %d and %d", n, skipped, len(ids), invalid)
		}
		return ids, err
	}
	if ids, err := read(); err != nil || len(ids) != 0 {
		t.Errorf("empty journal: got the files %v and error %v, want none", ids, err)
	}
	p := servertest.Publisher(t, broker.URL)
	var want []string
	for range 700 { // more than one batch of ReadJournal
		e, f := servertest.FileStored(t)
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		want = append(want, f.ID)
	}
	ch := servertest.Channel(t, broker)
	if n, err := ch.QueuePurge(events.Queue, false); err != nil || n != len(want) {
		t.Fatalf("purge the queue: got %d messages and error %v, want %d", n, err, len(want))
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"x", "{}"} {
		confirmation, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "", events.Journal, true, false, amqp.Publishing{Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		if stored, err := confirmation.WaitContext(t.Context()); err != nil || !stored {
			t.Fatalf("publish %q: got stored %t and error %v, want true", body, stored, err)
		}
		invalid++
	}
	for range 2 { // reading does not change the journal
		ids, err := read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ids); diff != "" {
			t.Fatalf("files (-want +got):\n%s", diff)
		}
	}
	if _, err := ch.QueueDelete(events.Journal, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := read(); !errors.Is(err, problem.NotFound) {
		t.Errorf("no journal: got error %v, want problem.NotFound", err)
	}
}

// TestJournalWhilePublishing proves that ReadJournal ends while events are published, and returns the events from before
// its start.
func TestJournalWhilePublishing(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	first, want := servertest.FileStored(t)
	if err := p.Publish(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Recovery)
	defer cancel()
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			e, _ := servertest.FileStored(t)
			if err := p.Publish(t.Context(), e); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
		}
	})
	var got []file.Info
	_, _, err := events.ReadJournal(ctx, broker.URL, func(files []file.Info) error {
		got = append(got, files...)
		return nil
	})
	close(stop)
	group.Wait()
	if err != nil || len(got) == 0 || got[0].ID != want.ID {
		t.Errorf("got %d files and error %v, want the file %s and later files", len(got), err, want.ID)
	}
}

// TestPermissions proves that the permissions that functions/secrets grants to the RabbitMQ users suffice for each
// function. It also proves that upload cannot declare the topology, and that the source cannot publish.
func TestPermissions(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	const nothing = "^$"
	setup := broker.NewUser(t, servertest.Permissions{Configure: `^strongroom\..*`, Write: `^strongroom\..*`, Read: `^strongroom\..*`})
	upload := broker.NewUser(t, servertest.Permissions{Configure: nothing, Write: `^strongroom\.events$`, Read: nothing})
	sweep := broker.NewUser(t, servertest.Permissions{Configure: nothing, Write: `^strongroom\.(events|files|files\.dead)$`, Read: nothing})
	source := broker.NewUser(t, servertest.Permissions{Configure: nothing, Write: nothing, Read: `^strongroom\.files$`})
	if err := events.DeclareTopology(t.Context(), setup); err != nil {
		t.Errorf("declare the topology as setup: %v", err)
	}
	if err := events.DeclareTopology(t.Context(), upload); err == nil {
		t.Error("declare the topology as upload: got no error, want a refusal")
	}
	for _, user := range []string{upload, sweep} {
		e, _ := servertest.FileStored(t)
		if err := servertest.Publisher(t, user).Publish(t.Context(), e); err != nil {
			t.Errorf("publish: %v", err)
		}
	}
	// RabbitMQ refuses the event because of the missing permission.
	e, _ := servertest.FileStored(t)
	wantUnavailable(t, servertest.Publisher(t, source).Publish(t.Context(), e))
	if got, err := events.QueueDepths(t.Context(), sweep); err != nil || got != (events.Depths{Waiting: 2}) {
		t.Errorf("Lengths as sweep: got %+v (%v), want the 2 events of upload and sweep", got, err)
	}
	_, err := events.QueueDepths(t.Context(), servertest.WithPassword(t, sweep, "wrong"))
	wantUnavailable(t, err)
}
