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

// TestBrokerCrashes proves that Publish reports the correct outcome while RabbitMQ is killed and restarted. The queue
// then contains every event for which Publish returned nil. It contains no event for which Publish returned an error
// without ErrUnknown.
func TestBrokerCrashes(t *testing.T) {
	broker := servertest.OwnRabbitMQ(t).NewVhost(t)
	servertest.ResetLastingTopology(t, broker)
	p := servertest.Publisher(t, broker.URL)

	const confirmed, refused = "confirmed", "refused"
	var mu sync.Mutex
	outcome := map[string]string{}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				e, f := servertest.FileStored(t)
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
				time.Sleep(time.Millisecond) // limits the size of the map while the broker is down
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
		servertest.Eventually(t, servertest.Recovery, fmt.Sprintf("more than %d events are %s", than, what), func() error {
			if n := count(what); n <= than {
				return fmt.Errorf("got %d", n)
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
	for id, o := range outcome {
		if kept[id] != (o == confirmed) {
			t.Errorf("event %s was %s: got in the queue %t, want %t", id, o, kept[id], o == confirmed)
		}
	}
}

// TestBrokerBlocks proves that Ready and Publish report RabbitMQ as unavailable during a memory alarm and work again
// afterward. During the alarm, RabbitMQ does not read from connections that publish.
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
	// RabbitMQ reports the alarm only after a connection has published. RabbitMQ might store that first event after the
	// alarm. The publisher sends no further event during the alarm.
	servertest.Eventually(t, servertest.Recovery, "Ready reports that the broker is blocked", func() error {
		if err := p.Ready(t.Context()); err != nil {
			wantUnavailable(t, err, false)
			return nil
		}
		if err := publish(); err != nil && !errors.Is(err, problem.Unavailable) {
			t.Errorf("got error %v, want problem.Unavailable", err)
		}
		return errors.New("Ready returned nil")
	})
	wantUnavailable(t, publish(), false)
	broker.Rabbitmqctl(t, "set_vm_memory_high_watermark", "0.4")
	servertest.Eventually(t, servertest.Recovery, "Publish works after the alarm", publish)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready after the alarm: got error %v, want nil", err)
	}
}
