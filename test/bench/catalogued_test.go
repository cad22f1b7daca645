package bench

import (
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	recordLimit = 256 << 20             // memory limit of record, in bytes
	smallFile   = 64 << 10              // size of each uploaded file, in bytes
	pollPause   = time.Millisecond      // interval between two reads of the catalog
	tooLate     = 30 * time.Second      // maximum time until a file must be in the catalog
	delayGoal   = 50 * time.Millisecond // maximum median of the time until a file is in the catalog
)

// BenchmarkCatalogued measures the time from the 202 response to an upload until the file is in the catalog. It uploads
// one file after another, after a warm-up, with the real functions upload and record, RabbitMQ, the receive adapter of
// eventing-rabbitmq, and FerretDB. It prints the median and the 99th percentile of this time, and the median duration
// of the uploads.
func BenchmarkCatalogued(b *testing.B) {
	dir, err := os.MkdirTemp("", "strongroom-bench-") // short, because the length of a socket path is limited
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	mongo, broker := startStores(b, dir)
	files, err := content.Open(mongo.URI)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = files.Close() })
	entries := catalog.New(files.Database())
	if err := errors.Join(entries.EnsureIndexes(b.Context()), files.EnsureIndexes(b.Context())); err != nil {
		b.Fatal(err)
	}
	if err := events.DeclareTopology(b.Context(), broker.URL); err != nil {
		b.Fatal(err)
	}
	record := startLimited(b, recordLimit, build(b, b.TempDir(), "record"), []string{"MONGODB_URI=" + mongo.URI, "LOG_LEVEL=warn"})
	adapter, err := store.StartAdapter(b.Context(), store.AdapterConfig{
		Dir: dir + "/adapter", RabbitURL: broker.URL, Queue: events.Queue, Sink: record.url, Progress: b.Output(),
		Parallelism: 20, Retry: 8, BackoffPolicy: "exponential", BackoffDelay: "PT0.5S", // as in knative/strongroom-files.yaml
	})
	if err != nil {
		b.Fatal(err)
	}
	stop(b, "the adapter", adapter)
	upload := startUploadTo(b, mongo.URI, broker.URL)
	block := newBlock(1)
	// once uploads a file and returns the duration of the upload, and the time from its response until the file is in
	// the catalog.
	once := func() (uploaded, delay time.Duration) {
		began := time.Now()
		id, _, err := upload.postFile(b.Context(), block, smallFile)
		if err != nil {
			b.Fatal(err)
		}
		accepted := time.Now()
		for {
			_, err := entries.Get(b.Context(), id)
			if err == nil {
				return accepted.Sub(began), time.Since(accepted)
			}
			if !errors.Is(err, problem.NotFound) || time.Since(accepted) > tooLate {
				b.Fatalf("get the catalog entry of file %s: %v", id, err)
			}
			time.Sleep(pollPause)
		}
	}
	for range 20 { // the warm-up
		once()
	}
	var uploads, delays []time.Duration
	for b.Loop() {
		uploaded, delay := once()
		uploads, delays = append(uploads, uploaded), append(delays, delay)
	}
	report := func(name string, times []time.Duration, percentile int) time.Duration {
		slices.Sort(times)
		at := times[(len(times)-1)*percentile/100]
		b.ReportMetric(float64(at.Microseconds())/1000, name)
		return at
	}
	median := report("ms-p50", delays, 50)
	report("ms-p99", delays, 99)
	report("ms-upload-p50", uploads, 50)
	b.ReportMetric(0, "ns/op")
	if median > delayGoal {
		b.Errorf("median time until a file is in the catalog: got %v, want at most %v", median, delayGoal)
	}
}

// startStores starts FerretDB and RabbitMQ. It skips the benchmark if RabbitMQ is not installed.
func startStores(b *testing.B, dir string) (*store.Mongo, *store.Rabbit) {
	mongo, err := store.StartFerretDB(b.Context(), dir+"/mongo", b.Output())
	if err != nil {
		b.Fatal(err)
	}
	stop(b, "FerretDB", mongo)
	broker, err := store.StartRabbitMQ(b.Context(), dir+"/rabbitmq", io.Discard)
	if errors.Is(err, store.ErrNotInstalled) {
		b.Skipf("SKIPPED: rabbitmq-server is not installed: %v", err)
	} else if err != nil {
		b.Fatal(err)
	}
	stop(b, "RabbitMQ", broker)
	return mongo, broker
}

// stop stops a server when the benchmark ends.
func stop(b *testing.B, name string, server interface{ Stop() error }) {
	b.Cleanup(func() {
		if err := server.Stop(); err != nil {
			b.Errorf("stop %s: %v", name, err)
		}
	})
}
