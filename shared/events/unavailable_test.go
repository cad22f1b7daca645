package events_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestBrokerCrashes proves that no event is lost for which Publish returned nil while RabbitMQ is killed and restarted.
// Publish fails while RabbitMQ is down, and works again afterward.
func TestBrokerCrashes(t *testing.T) {
	broker := servertest.OwnRabbitMQ(t).NewVhost(t)
	servertest.ResetLastingTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)

	var mu sync.Mutex
	confirmed, failed := []string{}, 0 // the IDs of the events for which Publish returned nil, and the number of errors
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				e, f := servertest.FileStored(t)
				err := p.Publish(t.Context(), e)
				mu.Lock()
				if err == nil {
					confirmed = append(confirmed, f.ID)
				} else {
					failed++
					wantUnavailable(t, err)
				}
				mu.Unlock()
				time.Sleep(time.Millisecond) // limits the number of attempts while the broker is down
			}
		})
	}
	counts := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return len(confirmed), failed
	}
	// more waits for more confirmed events and more errors.
	more := func(moreConfirmed, moreFailed int) {
		t.Helper()
		confirmedBefore, failedBefore := counts()
		what := fmt.Sprintf("there are %d more confirmed events and %d more errors", moreConfirmed, moreFailed)
		servertest.Eventually(t, servertest.Recovery, what, func() error {
			if c, f := counts(); c < confirmedBefore+moreConfirmed || f < failedBefore+moreFailed {
				return fmt.Errorf("got %d and %d more", c-confirmedBefore, f-failedBefore)
			}
			return nil
		})
	}
	more(50, 0)
	if err := broker.Kill(); err != nil {
		t.Fatal(err)
	}
	more(0, 16)
	if err := broker.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	more(50, 0)
	stop()
	group.Wait()

	ch := servertest.Channel(t, broker)
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
	for _, id := range confirmed {
		if !kept[id] {
			t.Errorf("event %s: got no message in the queue, want one, because Publish returned nil", id)
		}
	}
}

// TestBrokerBlocks proves that Publish reports RabbitMQ as unavailable during a memory alarm and works again afterward.
// During the alarm, RabbitMQ does not read from connections that publish.
func TestBrokerBlocks(t *testing.T) {
	broker := servertest.OwnRabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)
	publish := func() error {
		e, _ := servertest.FileStored(t)
		return p.Publish(t.Context(), e)
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	broker.Rabbitmqctl(t, "set_vm_memory_high_watermark", "absolute", "1")
	// RabbitMQ reports the alarm only after a connection has published. RabbitMQ might confirm that first event.
	servertest.Eventually(t, servertest.Recovery, "Publish fails during the alarm", func() error {
		err := publish()
		if err == nil {
			return errors.New("got no error")
		}
		wantUnavailable(t, err)
		return nil
	})
	wantUnavailable(t, publish())
	broker.Rabbitmqctl(t, "set_vm_memory_high_watermark", "0.4")
	servertest.Eventually(t, servertest.Recovery, "Publish works after the alarm", publish)
}

// TestPublishAgain proves that Publish publishes an event again if the connection is lost, and that it gives up after
// four tries. Each message in the queue has the ID of the event, so that record recognizes a duplicate.
func TestPublishAgain(t *testing.T) {
	for name, c := range map[string]struct {
		cut      servertest.Cut
		want     error
		messages int
	}{
		"RabbitMQ does not receive the event once":  {servertest.Cut{Times: 1}, nil, 1},
		"RabbitMQ does not receive the event twice": {servertest.Cut{Times: 2}, nil, 1},
		"RabbitMQ never receives the event":         {servertest.Cut{}, problem.Unavailable, 0},
		"the confirmation is lost once":             {servertest.Cut{Times: 1, Forward: true}, nil, 2},
		"each confirmation is lost":                 {servertest.Cut{Forward: true}, problem.Unavailable, 4},
	} {
		t.Run(name, func(t *testing.T) {
			broker := servertest.RabbitMQ(t).NewVhost(t)
			servertest.ResetTopology(t, broker)
			e, f := servertest.FileStored(t)
			u := servertest.ParseURL(t, broker.URL)
			c.cut.Text = f.ID
			u.Host = c.cut.Proxy(t, u.Host)
			if err := servertest.Publisher(t, u.String()).Publish(t.Context(), e); !errors.Is(err, c.want) {
				t.Errorf("Publish: got error %v, want %v", err, c.want)
			}
			ch := servertest.Channel(t, broker)
			for range c.messages {
				if message := servertest.GetMessage(t, ch, events.Queue); message.MessageId != e.ID() {
					t.Errorf("got message ID %s, want %s", message.MessageId, e.ID())
				}
			}
			if n := servertest.QueueDepth(t, ch, events.Queue); n != 0 {
				t.Errorf("got %d more messages, want 0", n)
			}
		})
	}
}
