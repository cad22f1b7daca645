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
)

// TestRecordDeliveredManyTimes delivers one event 100 times from 16 goroutines to the real record, as sources that
// deliver at least once may.
func TestRecordDeliveredManyTimes(t *testing.T) {
	uri := sharedMongoDB(t).newDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := runFunction(t, "record", "MONGODB_URI="+uri)
	e, f := fileStored(t)
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
		t.Errorf("%d entries (%v), want 1", len(entries), err)
	}
}

// TestRecordOfADeletedFile deletes files while their events arrive: none may come back into the catalogue.
func TestRecordOfADeletedFile(t *testing.T) {
	uri := sharedMongoDB(t).newDatabase(t)
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
		e, f := fileStored(t)
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
		group.Go(func() { // as files does it
			time.Sleep(rand.N(3 * time.Millisecond))
			if err := errors.Join(files.Bury(t.Context(), f.ID), c.Delete(t.Context(), f.ID)); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
	}
	if left := catalogued(t, c); len(left) != 0 {
		t.Errorf("the catalogue has %v, which were deleted", left)
	}
}

// deadLetters returns the ids of the events among the dead letters, and leaves them there.
func deadLetters(t *testing.T, broker vhost) map[string]bool {
	t.Helper()
	ch := amqpChannel(t, broker)
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
	if err := ch.Close(); err != nil { // which gives them back
		t.Fatal(err)
	}
	return ids
}

// catalogued returns the ids of all entries.
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
				t.Errorf("file %s has two entries", e.ID)
			}
			ids[e.ID] = true
		}
		if query.Cursor = next; next == "" {
			return ids
		}
	}
}

// TestAdapterStops stops the receive adapter in order, again and again, while it can not deliver what it has in hand: it
// may give up that, which is what dead letters and setup redrive are for. Whether it does is a race inside of it, between the
// rejecting of the events and the closing of the connection, after which they are delivered again. So that there are dead
// letters in any case, a few events are refused for good at the end.
func TestAdapterStops(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	topology(t, broker)
	uri := sharedMongoDB(t).newDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := url.Parse(runFunction(t, "record", "MONGODB_URI="+uri))
	if err != nil {
		t.Fatal(err)
	}
	delivered := httputil.NewSingleHostReverseProxy(record)
	var refusal, refused atomic.Int32 // the status, if it is not 0
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
	p := publisher(t, broker.URL)
	publish := func(n int) {
		for range n {
			e, f := fileStored(t)
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
		eventually(t, recovery, "the adapter has its hands full", func() error {
			if got := refused.Load() - before; got < hands {
				return fmt.Errorf("%d refusals", got)
			}
			return nil
		})
		if err := a.Restart(t.Context()); err != nil { // SIGTERM, and anew
			t.Fatal(err)
		}
		refusal.Store(0)
	}
	eventually(t, 2*recovery, "nothing waits", func() error {
		if dead, entries := deadLetters(t, broker), catalogued(t, c); len(dead)+len(entries) < len(published) {
			return fmt.Errorf("%d dead letters and %d entries of %d", len(dead), len(entries), len(published))
		}
		return nil
	})
	fromStops := len(deadLetters(t, broker))
	refusal.Store(http.StatusUnprocessableEntity)
	publish(poison)
	eventually(t, recovery, "the last events are dead", func() error {
		if got := len(deadLetters(t, broker)); got < fromStops+poison {
			return fmt.Errorf("%d dead letters", got)
		}
		return nil
	})
	refusal.Store(0)
	var dead, entries map[string]bool
	eventually(t, 2*recovery, "each event is catalogued or dead", func() (err error) {
		dead, entries = deadLetters(t, broker), catalogued(t, c)
		for id := range published {
			if !dead[id] && !entries[id] {
				err = errors.Join(err, errors.New(id))
			}
		}
		return err
	})
	t.Logf("after %d stops: %d of %d events catalogued, %d dead letters, %d of them by the stops", stops, len(entries), n, len(dead), fromStops)
	wantSettled(t, broker, len(dead)) // the look at the letters has given them back
	out, log, err := setupCommand(t, "", []string{"EVENTS_ADMIN_URL=" + broker.URL}, "redrive")
	if err != nil || out != fmt.Sprintf("dead letters moved back: %d\n", len(dead)) {
		t.Errorf("setup redrive: %v; it said %q\n%s", err, out, log)
	}
	eventually(t, 2*recovery, "each event is catalogued", func() error {
		if entries := catalogued(t, c); len(entries) != n {
			return fmt.Errorf("%d of %d are", len(entries), n)
		}
		return nil
	})
	wantSettled(t, broker, 0)
}

// TestRedriveKilled kills setup redrive at each step of moving a letter. Wherever it dies, no letter is lost; the one that
// was under way may come twice.
func TestRedriveKilled(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	for name, at := range map[string]moment{
		"with a letter in hand":           {"message", true, true},
		"before the letter is sent":       {"message", false, false},
		"after the letter is sent":        {"message", false, true},
		"before the confirmation comes":   {"ack", true, false},
		"after the confirmation has come": {"ack", true, true},
		"before the letter is taken out":  {"ack", false, false},
		"after the letter is taken out":   {"ack", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			topology(t, broker)
			ch := amqpChannel(t, broker)
			const n = 10
			letters := map[string]bool{}
			for range n {
				e, f := fileStored(t)
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
			eventually(t, recovery, "the dead letters are there", func() error {
				if got := depth(t, ch, events.DeadQueue); got != n {
					return fmt.Errorf("there are %d", got)
				}
				return nil
			})

			command := exec.Command(build(t, "setup"), "redrive")
			started := make(chan struct{})
			var seen atomic.Int32
			proxy := newWire(t, host(t, broker.URL), amqpFrames, func(m moment) (cut bool) {
				if m != at || seen.Add(1) != 4 { // in the midst of it
					return false
				}
				<-started
				_ = syscall.Kill(command.Process.Pid, syscall.SIGKILL)
				return true
			})
			command.Env = []string{"EVENTS_ADMIN_URL=" + proxy.through(t, broker.URL)}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			close(started)
			if err := command.Wait(); err == nil {
				t.Error("setup redrive came to its end: it was not killed")
			}

			all := map[string]bool{}
			again := 0
			eventually(t, recovery, "all letters are in one of the queues", func() error {
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
					return fmt.Errorf("%d of %d are", len(all), n)
				}
				return nil
			})
			for id := range letters {
				if !all[id] {
					t.Errorf("letter %s is lost", id)
				}
			}
			if again > 1 {
				t.Errorf("%d letters came twice, want only the one that was under way", again)
			}
		})
	}
}
