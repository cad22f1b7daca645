package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// adapterParallelism is the number of events that the adapter delivers at the same time.
const adapterParallelism = 20

// adapter starts the real receive adapter, which delivers the events of the queue to the URL sink until the test ends.
// It retries deliveries as in knative/strongroom-files.yaml, but with a shorter backoff.
func adapter(t *testing.T, broker servertest.Vhost, sink string) *store.Server {
	t.Helper()
	a, err := store.StartAdapter(t.Context(), store.AdapterConfig{
		Dir:           t.TempDir(),
		RabbitURL:     broker.URL,
		Queue:         events.Queue,
		Parallelism:   adapterParallelism,
		Retry:         8,
		BackoffPolicy: "exponential",
		BackoffDelay:  "PT0.1S",
		Sink:          sink,
		Progress:      t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Errorf("stop the adapter: %v", err)
		}
	})
	return a
}

// openCatalog opens a catalog, which is closed when the test ends.
func openCatalog(t *testing.T, uri string) *catalog.Store {
	t.Helper()
	db, err := mongodb.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mongodb.Close(db); err != nil {
			t.Errorf("close the catalog: %v", err)
		}
	})
	return catalog.New(db)
}

// wantEntry waits for the catalog entry of f and checks it.
func wantEntry(t *testing.T, c *catalog.Store, f file.Info) {
	t.Helper()
	var got catalog.Entry
	servertest.Eventually(t, 2*servertest.Recovery, "file "+f.ID+" is in the catalog", func() (err error) {
		got, err = c.Get(t.Context(), f.ID)
		return err
	})
	want := catalog.Entry{Info: f}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(catalog.Entry{}, "CataloguedAt")); diff != "" {
		t.Errorf("catalog entry of file %s (-want +got):\n%s", f.ID, diff)
	}
	if got.CataloguedAt.Before(f.StoredAt) {
		t.Errorf("file %s: got CataloguedAt %v, want a time after StoredAt %v", f.ID, got.CataloguedAt, f.StoredAt)
	}
}

// wantSettled waits until the queue has no ready messages and the dead-letter queue has at least the expected number of
// dead letters. It then checks that the dead-letter queue has exactly that number.
func wantSettled(t *testing.T, broker servertest.Vhost, dead int) {
	t.Helper()
	ch := servertest.Channel(t, broker)
	servertest.Eventually(t, servertest.Recovery, "all events are delivered", func() error {
		if n := servertest.QueueDepth(t, ch, events.Queue); n != 0 {
			return fmt.Errorf("got %d messages in %s, want 0", n, events.Queue)
		}
		if n := servertest.QueueDepth(t, ch, events.DeadQueue); n < dead {
			return fmt.Errorf("got %d dead letters, want %d", n, dead)
		}
		return nil
	})
	if n := servertest.QueueDepth(t, ch, events.DeadQueue); n != dead {
		t.Errorf("got %d dead letters, want %d", n, dead)
	}
}

// TestPipeline proves that a published event reaches the catalog through RabbitMQ, the real receive adapter and the
// real record function. A duplicate event adds no entry, and an invalid event becomes a dead letter without delaying
// other events.
func TestPipeline(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	uri := servertest.MongoDB(t).NewDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	adapter(t, broker, runFunction(t, "record", "MONGODB_URI="+uri))
	p := servertest.Publisher(t, broker.URL)

	e, f := servertest.StoreFile(t, uri)
	for range 2 { // a publisher also publishes an event again if the confirmation was lost
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	wantEntry(t, c, f)

	// An invalid event becomes a dead letter unchanged after the first delivery. It does not delay the events after it.
	ch := servertest.Channel(t, broker)
	poison := amqp.Publishing{
		ContentType: "application/cloudevents+json", DeliveryMode: amqp.Persistent,
		Body: []byte(`{"specversion":"1.0","type":"dev.strongroom.file.stored.v1","source":"/strongroom/upload","id":"1","data":{"id":"1"}}`),
	}
	if err := ch.PublishWithContext(t.Context(), events.Exchange, events.TypeFileStored, true, false, poison); err != nil {
		t.Fatal(err)
	}
	e, next := servertest.StoreFile(t, uri)
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	wantEntry(t, c, next)
	wantSettled(t, broker, 1)
	letter := servertest.GetMessage(t, ch, events.DeadQueue)
	if string(letter.Body) != string(poison.Body) || letter.RoutingKey != events.TypeFileStored {
		t.Errorf("got the dead letter %q with the routing key %q, want %q with %q",
			letter.Body, letter.RoutingKey, poison.Body, events.TypeFileStored)
	}
	entries, _, err := c.List(t.Context(), catalog.Query{})
	if err != nil || len(entries) != 2 {
		t.Errorf("got %d catalog entries (%v), want 2", len(entries), err)
	}
}

// TestPipelineWithoutMongoDB proves that events that arrive while MongoDB is down reach the catalog after MongoDB is up
// again. While MongoDB is down, record responds with 503 and Retry-After, so that the adapter retries the delivery.
func TestPipelineWithoutMongoDB(t *testing.T) {
	broker, mongo := servertest.RabbitMQ(t).NewVhost(t), servertest.OwnMongoDB(t)
	servertest.ResetTopology(t, broker)
	uri := mongo.NewDatabase(t)
	c := openCatalog(t, uri)
	record, err := url.Parse(runFunction(t, "record", "MONGODB_URI="+uri))
	if err != nil {
		t.Fatal(err)
	}
	var refusals atomic.Int32
	watched := httputil.NewSingleHostReverseProxy(record)
	watched.ModifyResponse = func(res *http.Response) error {
		switch {
		case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
			refusals.Add(1)
		case res.StatusCode != http.StatusNoContent:
			t.Errorf("record: got %s with Retry-After %q, want 204, or 503 with Retry-After", res.Status, res.Header.Get("Retry-After"))
		}
		return nil
	}
	sink := httptest.NewServer(watched)
	defer sink.Close()
	adapter(t, broker, sink.URL)
	p := servertest.Publisher(t, broker.URL)
	var files []file.Info
	var announced []event.Event
	for range 5 {
		e, f := servertest.StoreFile(t, uri)
		announced, files = append(announced, e), append(files, f)
	}
	if err := mongo.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, e := range announced {
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	servertest.Eventually(t, 2*servertest.Recovery, "record has refused the events several times", func() error {
		if n := refusals.Load(); n < int32(3*len(files)) {
			return fmt.Errorf("got %d refusals, want %d", n, 3*len(files))
		}
		return nil
	})
	if err := mongo.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		wantEntry(t, c, f)
	}
	wantSettled(t, broker, 0)
}
