package servertest

import (
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// Recovery is how long a publisher or a pipeline may take to recover after its servers become available again.
const Recovery = 30 * time.Second

// ResetTopology deletes the exchanges and queues of the virtual host and declares them again. It repeats failed
// attempts, because RabbitMQ refuses to delete a stream for a moment after a restart ("home node is down").
func ResetTopology(t *testing.T, broker Vhost) {
	t.Helper()
	Eventually(t, Recovery, "the exchanges and queues are deleted and declared", func() error {
		conn, err := amqp.Dial(broker.URL)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		for _, queue := range []string{events.Queue, events.DeadQueue, events.Journal} {
			if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
				return err
			}
		}
		for _, exchange := range []string{events.Exchange, events.DeadExchange} {
			if err := ch.ExchangeDelete(exchange, false, false); err != nil {
				return err
			}
		}
		return events.DeclareTopology(t.Context(), broker.URL)
	})
}

// ResetLastingTopology calls ResetTopology and then waits long enough for RabbitMQ to save the new queues. Use it for a
// broker that the test will kill.
func ResetLastingTopology(t *testing.T, broker Vhost) {
	t.Helper()
	ResetTopology(t, broker)
	// RabbitMQ takes up to half a second to save a new quorum queue. If RabbitMQ is killed before it has saved the
	// queue, the queue is empty (RabbitMQ 4.3) or confirms no messages (RabbitMQ 3.10) after the next start.
	time.Sleep(2 * time.Second)
}

// Publisher returns a publisher for eventsURL. The publisher is closed when the test ends.
func Publisher(t *testing.T, eventsURL string) events.Publisher {
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

// FileStored returns a new event and its data.
func FileStored(t *testing.T) (cloudevents.Event, file.Info) {
	t.Helper()
	f := file.Info{
		ID:          uuid.Must(uuid.NewV7()).String(),
		Owner:       uuid.Must(uuid.NewV7()).String(),
		Name:        "größe \"1\"\n.txt",
		Size:        1,
		SHA256:      strings.Repeat("0a", 32),
		ContentType: "text/plain; charset=utf-8",
		StoredAt:    time.Now().UTC().Truncate(time.Millisecond),
	}
	e, err := events.NewFileStored(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return e, f
}
