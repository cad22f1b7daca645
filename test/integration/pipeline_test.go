package integration

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/knative/local/store"
	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/events"
)

// adapterParallelism is how many events the adapter has in hand.
const adapterParallelism = 20

// adapter delivers the events of the queue to sink with the real receive adapter, until the test ends. It retries in
// the way of knative/strongroom-files.yaml, only sooner.
func adapter(t *testing.T, broker vhost, sink string) *store.Server {
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

func openCatalog(t *testing.T, uri string) *catalog.Store {
	t.Helper()
	c, err := catalog.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the catalogue: %v", err)
		}
	})
	return c
}

// wantEntry waits for the catalogue entry of f and checks it.
func wantEntry(t *testing.T, c *catalog.Store, f events.FileStored) {
	t.Helper()
	var got catalog.Entry
	eventually(t, 2*recovery, "the catalogue entry of "+f.ID, func() (err error) {
		got, err = c.Get(t.Context(), f.ID)
		return err
	})
	want := catalog.Entry{ID: f.ID, Owner: f.Owner, Name: f.Name, Size: f.Size, SHA256: f.SHA256, ContentType: f.ContentType, StoredAt: f.StoredAt}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(catalog.Entry{}, "CataloguedAt")); diff != "" {
		t.Errorf("catalogue entry (-want +got):\n%s", diff)
	}
	if got.CataloguedAt.Before(f.StoredAt) {
		t.Errorf("catalogued at %v, before it was stored at %v", got.CataloguedAt, f.StoredAt)
	}
}

// wantSettled waits until nothing is in the queue or on its way, and checks the number of dead letters.
func wantSettled(t *testing.T, broker vhost, dead int) {
	t.Helper()
	ch := amqpChannel(t, broker)
	eventually(t, recovery, "the queues settle", func() error {
		if depth(t, ch, events.Queue) != 0 {
			return errors.New("messages wait in " + events.Queue)
		}
		if n := depth(t, ch, events.DeadQueue); n < dead {
			return errors.New("dead letters are missing")
		}
		return nil
	})
	if n := depth(t, ch, events.DeadQueue); n != dead {
		t.Errorf("%d dead letters, want %d", n, dead)
	}
}

// TestPipeline follows events from the publisher through RabbitMQ, the real receive adapter and the real record into
// the catalogue.
func TestPipeline(t *testing.T) {
	broker := sharedRabbitMQ(t).newVhost(t)
	topology(t, broker)
	uri := sharedMongoDB(t).newDatabase(t)
	c := openCatalog(t, uri)
	if err := c.EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	adapter(t, broker, runFunction(t, "record", "MONGODB_URI="+uri))
	p := publisher(t, broker.URL)

	e, f := fileStored(t)
	for range 2 { // published twice, as after a confirmation that did not come: catalogued once
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	wantEntry(t, c, f)

	// Poison goes to the dead letters at the first attempt, as it came; what is behind it is not held up.
	ch := amqpChannel(t, broker)
	poison := amqp.Publishing{
		ContentType: "application/cloudevents+json", DeliveryMode: amqp.Persistent,
		Body: []byte(`{"specversion":"1.0","type":"dev.strongroom.file.stored.v1","source":"/strongroom/upload","id":"1","data":{"id":"1"}}`),
	}
	if err := ch.PublishWithContext(t.Context(), events.Exchange, events.TypeFileStored, true, false, poison); err != nil {
		t.Fatal(err)
	}
	e, next := fileStored(t)
	if err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	wantEntry(t, c, next)
	wantSettled(t, broker, 1)
	letter := get(t, ch, events.DeadQueue)
	if string(letter.Body) != string(poison.Body) || letter.RoutingKey != events.TypeFileStored {
		t.Errorf("got dead letter %q with routing key %q, want the poison as it was published", letter.Body, letter.RoutingKey)
	}
	entries, _, err := c.List(t.Context(), catalog.Query{})
	if err != nil || len(entries) != 2 {
		t.Errorf("%d entries in the catalogue (%v), want 2", len(entries), err)
	}
}

// TestPipelineWithoutCatalogue takes MongoDB away while events arrive, until each was refused a few times.
func TestPipelineWithoutCatalogue(t *testing.T) {
	broker, mongo := sharedRabbitMQ(t).newVhost(t), ownMongoDB(t)
	topology(t, broker)
	uri := mongo.newDatabase(t)
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
			t.Errorf("record answers %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
		}
		return nil
	}
	sink := httptest.NewServer(watched)
	defer sink.Close()
	adapter(t, broker, sink.URL)
	if err := mongo.Kill(); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, broker.URL)
	var files []events.FileStored
	for range 5 {
		e, f := fileStored(t)
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	eventually(t, 2*recovery, "the events are refused", func() error {
		if n := refusals.Load(); n < int32(3*len(files)) {
			return fmt.Errorf("%d refusals", n)
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
