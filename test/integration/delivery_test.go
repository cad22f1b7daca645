package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestRecordDeliveredManyTimes proves that record accepts 100 deliveries of the same event from 16 goroutines and adds
// one catalog entry. An event source that delivers at least once can deliver an event repeatedly.
func TestRecordDeliveredManyTimes(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := runFunction(t, "record", "MONGODB_URI="+uri)
	e, f := servertest.StoreFile(t, uri)
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	deliveries := make(chan struct{}, 100)
	for range cap(deliveries) {
		deliveries <- struct{}{}
	}
	close(deliveries)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range deliveries {
				response, err := http.Post(record, "application/cloudevents+json", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if response.StatusCode/100 != 2 || err != nil {
					t.Errorf("got %s %s (%v), want 2xx", response.Status, text, err)
				}
			}
		})
	}
	group.Wait()
	wantEntry(t, c, f)
	if entries, _, err := c.List(t.Context(), catalog.Query{}); err != nil || len(entries) != 1 {
		t.Errorf("got %d catalog entries (%v), want 1", len(entries), err)
	}
}

// TestRecordOfADeletedFile proves that the event of a file cannot add a catalog entry if the file is deleted at the
// same time.
func TestRecordOfADeletedFile(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	c := openCatalog(t, uri)
	files, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := errors.Join(c.EnsureIndexes(t.Context()), files.EnsureIndexes(t.Context())); err != nil {
		t.Fatal(err)
	}
	record := runFunction(t, "record", "MONGODB_URI="+uri)
	for range 30 {
		e, f := servertest.StoreFile(t, uri)
		body, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() {
			for range 2 {
				response, err := http.Post(record, "application/cloudevents+json", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				if _ = response.Body.Close(); response.StatusCode != http.StatusNoContent {
					t.Errorf("got %s, want 204", response.Status)
				}
			}
		})
		group.Go(func() { // deletes the file in the same way as the files function
			time.Sleep(rand.N(3 * time.Millisecond))
			if err := errors.Join(files.MarkDeleted(t.Context(), f.ID), c.Delete(t.Context(), f.ID)); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
	}
	if left := catalogued(t, c); len(left) != 0 {
		t.Errorf("got catalog entries of the deleted files %v, want none", left)
	}
}

// deadLetters returns the event IDs of the dead letters. The dead letters stay in their queue.
func deadLetters(t *testing.T, broker servertest.Vhost) map[string]bool {
	t.Helper()
	ch := servertest.Channel(t, broker)
	ids := map[string]bool{}
	for {
		letter, ok, err := ch.Get(events.DeadQueue, false)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		ids[letter.MessageId] = true
	}
	if err := ch.Close(); err != nil { // returns the unacknowledged messages to the queue
		t.Fatal(err)
	}
	return ids
}

// catalogued returns the file IDs of all catalog entries.
func catalogued(t *testing.T, c *catalog.Store) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for query := (catalog.Query{Limit: catalog.MaxLimit}); ; {
		entries, next, err := c.List(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if ids[e.ID] {
				t.Errorf("got two catalog entries of file %s, want 1", e.ID)
			}
			ids[e.ID] = true
		}
		if query.Cursor = next; next == "" {
			return ids
		}
	}
}

// TestAdapterStops proves that no event is lost if the receive adapter is stopped while it cannot deliver its events.
// Each of these events is delivered again or becomes a dead letter, and `setup redrive` moves dead letters back to the
// queue. Which of the two happens is a race in the adapter: it rejects the events and closes its connection at the same
// time. The sink permanently refuses a few events at the end, so that there are dead letters in every run.
func TestAdapterStops(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := url.Parse(runFunction(t, "record", "MONGODB_URI="+uri))
	if err != nil {
		t.Fatal(err)
	}
	delivered := httputil.NewSingleHostReverseProxy(record)
	var refusal, refused atomic.Int32 // refusal is the status with which the sink refuses events, or 0
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := refusal.Load(); status != 0 {
			w.WriteHeader(int(status))
			refused.Add(1)
			return
		}
		delivered.ServeHTTP(w, r)
	}))
	defer sink.Close()
	a := adapter(t, broker, sink.URL)

	const stops, well, hands, poison = 5, 40, adapterParallelism, 5
	const n = stops*(well+hands) + poison
	published := map[string]bool{}
	p := servertest.Publisher(t, broker.URL)
	publish := func(n int) {
		for range n {
			e, f := servertest.StoreFile(t, uri)
			if err := p.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			published[f.ID] = true
		}
	}
	for range stops {
		publish(well)
		refusal.Store(http.StatusServiceUnavailable)
		before := refused.Load()
		publish(hands)
		servertest.Eventually(t, servertest.Recovery, "the adapter has as many undelivered events as it can hold", func() error {
			if got := refused.Load() - before; got < hands {
				return fmt.Errorf("got %d refusals, want %d", got, hands)
			}
			return nil
		})
		if err := a.Restart(t.Context()); err != nil { // sends SIGTERM and starts the adapter again
			t.Fatal(err)
		}
		refusal.Store(0)
	}
	servertest.Eventually(t, 2*servertest.Recovery, "each event has a catalog entry or is a dead letter", func() error {
		if dead, entries := deadLetters(t, broker), catalogued(t, c); len(dead)+len(entries) < len(published) {
			return fmt.Errorf("got %d dead letters and %d catalog entries of %d events", len(dead), len(entries), len(published))
		}
		return nil
	})
	fromStops := len(deadLetters(t, broker))
	refusal.Store(http.StatusUnprocessableEntity)
	publish(poison)
	servertest.Eventually(t, servertest.Recovery, "the last events are dead letters", func() error {
		if got := len(deadLetters(t, broker)); got < fromStops+poison {
			return fmt.Errorf("got %d dead letters, want %d", got, fromStops+poison)
		}
		return nil
	})
	refusal.Store(0)
	var dead, entries map[string]bool
	servertest.Eventually(t, 2*servertest.Recovery, "each event has a catalog entry or is a dead letter", func() (err error) {
		dead, entries = deadLetters(t, broker), catalogued(t, c)
		for id := range published {
			if !dead[id] && !entries[id] {
				err = errors.Join(err, fmt.Errorf("event %s is missing", id))
			}
		}
		return err
	})
	t.Logf("after %d stops: %d catalog entries of %d events, %d dead letters, %d of them from the stops",
		stops, len(entries), n, len(dead), fromStops)
	wantSettled(t, broker, len(dead)) // waits until RabbitMQ has returned the messages of deadLetters to the queue
	out, log, err := setupCommand(t, "", []string{"EVENTS_ADMIN_URL=" + broker.URL}, "redrive")
	if err != nil || out != fmt.Sprintf("dead letters moved back: %d\n", len(dead)) {
		t.Errorf("setup redrive: got error %v and output %q, want %d dead letters moved back\n%s", err, out, len(dead), log)
	}
	servertest.Eventually(t, 2*servertest.Recovery, "each event has a catalog entry", func() error {
		if entries := catalogued(t, c); len(entries) != n {
			return fmt.Errorf("got %d catalog entries, want %d", len(entries), n)
		}
		return nil
	})
	wantSettled(t, broker, 0)
}

// TestRedriveKilled proves that no dead letter is lost if `setup redrive` is killed at any step of moving a dead
// letter. At most the dead letter that was being moved is duplicated.
func TestRedriveKilled(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	for name, at := range map[string]moment{
		"after the dead letter is received":     {"message", true, true},
		"before the dead letter is sent":        {"message", false, false},
		"after the dead letter is sent":         {"message", false, true},
		"before the confirmation arrives":       {"ack", true, false},
		"after the confirmation arrives":        {"ack", true, true},
		"before the dead letter is removed":     {"ack", false, false},
		"after the removal is sent to RabbitMQ": {"ack", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			servertest.ResetTopology(t, broker)
			ch := servertest.Channel(t, broker)
			const n = 10
			letters := map[string]bool{}
			for range n {
				e, f := servertest.FileStored(t)
				body, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				letters[f.ID] = true
				if err := ch.PublishWithContext(t.Context(), events.DeadExchange, events.TypeFileStored, true, false, amqp.Publishing{
					ContentType: "application/cloudevents+json", DeliveryMode: amqp.Persistent, MessageId: f.ID, Body: body,
				}); err != nil {
					t.Fatal(err)
				}
			}
			servertest.Eventually(t, servertest.Recovery, fmt.Sprintf("the dead-letter queue has %d messages", n), func() error {
				if got := servertest.QueueDepth(t, ch, events.DeadQueue); got != n {
					return fmt.Errorf("got %d", got)
				}
				return nil
			})

			command := exec.Command(build(t, "setup"), "redrive")
			started := make(chan struct{})
			var seen atomic.Int32
			proxy := newWire(t, host(t, broker.URL), amqpFrames, func(m moment) (cut bool) {
				if m != at || seen.Add(1) != 4 { // kill at the fourth dead letter
					return false
				}
				<-started
				_ = syscall.Kill(command.Process.Pid, syscall.SIGKILL)
				return true
			})
			var err error
			if command.Env, err = environment(command.Path, []string{"EVENTS_ADMIN_URL=" + proxy.through(t, broker.URL)}); err != nil {
				t.Fatal(err)
			}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			close(started)
			if err := command.Wait(); err == nil {
				t.Error("setup redrive succeeded, want it to be killed")
			}

			all := map[string]bool{}
			again := 0
			servertest.Eventually(t, servertest.Recovery, "each dead letter is in one of the queues", func() error {
				for _, queue := range []string{events.Queue, events.DeadQueue} {
					for {
						message, ok, err := ch.Get(queue, true)
						if err != nil {
							t.Fatal(err)
						}
						if !ok {
							break
						}
						if all[message.MessageId] {
							again++
						}
						all[message.MessageId] = true
					}
				}
				if len(all) != n {
					return fmt.Errorf("got %d messages, want %d", len(all), n)
				}
				return nil
			})
			for id := range letters {
				if !all[id] {
					t.Errorf("the dead letter %s is lost", id)
				}
			}
			if again > 1 {
				t.Errorf("got %d duplicates, want at most the dead letter that was being moved", again)
			}
		})
	}
}
