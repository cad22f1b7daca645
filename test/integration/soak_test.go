package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// soakPlan contains the settings of one run of TestSoak.
type soakPlan struct {
	long    bool   // whether this is the run of `make soak`
	seed    uint64 // the seed of all pseudorandom choices
	uploads int
	clients int
	maxSize int // the size of the largest file in bytes
	// pause is the longest pause of a client before an upload. span is the longest time that a client takes to send
	// the body of a request.
	pause, span time.Duration
	// backoff is the longest time that a client waits before it repeats a failed request.
	backoff time.Duration
	// every is the mean interval between two kills of the same component. down is the longest time after which a
	// killed component is started again.
	every, down time.Duration
	// mostKills is the maximum number of kills of each component.
	mostKills   int64
	orphanGrace time.Duration
	// limit is the time limit for all uploads. settle is the time limit for the recovery after the last kill.
	limit, settle time.Duration
}

// soakPendingGrace is the setting PENDING_GRACE of sweep.
const soakPendingGrace = 2 * time.Second

// soakFreeDisk is the number of bytes that a long run leaves free on the disk.
const soakFreeDisk = 10 << 30

// newSoakPlan returns the plan of a short run, or of a long run if SOAK is 1 or UPLOADS is set. SEED, UPLOADS, CLIENTS
// and KILL_INTERVAL change the plan.
func newSoakPlan(t *testing.T) soakPlan {
	t.Helper()
	number := func(name string, standard uint64) uint64 {
		n, err := strconv.ParseUint(cmp.Or(os.Getenv(name), strconv.FormatUint(standard, 10)), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	p := soakPlan{
		uploads: 60, clients: 8, maxSize: 3 * mebi, pause: time.Second / 2, span: time.Second, backoff: 2 * time.Second,
		every: 8 * time.Second, down: time.Second, mostKills: 1, orphanGrace: 5 * time.Second,
		limit: 3 * time.Minute, settle: 40 * time.Second,
	}
	if os.Getenv("SOAK") == "1" || os.Getenv("UPLOADS") != "" {
		p = soakPlan{
			long: true, uploads: 10_000, clients: 16, maxSize: 20 * mebi, backoff: 10 * time.Second, every: time.Minute,
			down: 5 * time.Second, mostKills: math.MaxInt64, orphanGrace: 30 * time.Second,
			limit: 5 * time.Hour, settle: 15 * time.Minute,
		}
		if os.Getenv("MONGODB_ADMIN_URI") == "" {
			// FerretDB on SQLite decodes the whole collection to count documents or to find them without an index, so each
			// upload takes longer than the one before.
			p.uploads = 1000
		}
	}
	p.seed = number("SEED", rand.Uint64N(1_000_000))
	p.uploads = int(number("UPLOADS", uint64(p.uploads)))
	p.clients = int(number("CLIENTS", uint64(p.clients)))
	if interval := os.Getenv("KILL_INTERVAL"); interval != "" {
		var err error
		if p.every, err = time.ParseDuration(interval); err != nil || p.every <= 0 {
			t.Fatalf("KILL_INTERVAL: got %q (%v), want a positive duration", interval, err)
		}
	}
	return p
}

// soak is one run of TestSoak.
type soak struct {
	plan       soakPlan
	db         *mongo.Database
	broker     servertest.Vhost
	signer     *token.Signer
	replicas   []string // the URLs of the upload processes
	sweep      string   // the URL of the sweep process
	logs       string   // the directory with the logs of the functions
	components []*component
	calm       chan struct{} // closed after the uploads; no component is killed afterward
	ledger     ledger
	sweeps     atomic.Int64 // the sweeps that responded with 200
	published  atomic.Int64 // the events that these sweeps published
}

// TestSoak proves that no accepted upload is lost, duplicated or left incomplete while every process and every server
// is killed with SIGKILL at random times. Clients upload plain files, files with an idempotency key, and resumable
// files. Afterward, each accepted upload has its bytes and exactly one catalog entry, and nothing remains of the
// others. `make soak` runs this test with more uploads.
func TestSoak(t *testing.T) {
	plan := newSoakPlan(t)
	t.Logf("SEED=%d UPLOADS=%d CLIENTS=%d KILL_INTERVAL=%s", plan.seed, plan.uploads, plan.clients, plan.every)
	s := startSoak(t, plan)
	began := time.Now()
	s.upload(t)
	took := time.Since(began)
	close(s.calm)
	s.recover(t)
	recovered := time.Since(began) - took
	found := s.check(t)
	s.report(t, found, took, recovered, time.Since(began)-took-recovered)
}

// startSoak starts all servers and functions, and the goroutines that kill them.
func startSoak(t *testing.T, plan soakPlan) *soak {
	t.Helper()
	store, broker := servertest.OwnMongoDB(t), servertest.OwnRabbitMQ(t).NewVhost(t)
	uri := store.NewDatabase(t)
	s := &soak{
		plan: plan, broker: broker, db: servertest.Database(t, uri), logs: t.TempDir(), calm: make(chan struct{}), ledger: newLedger(),
	}
	// The files have about 1/17 of the size of the largest file on average. The store needs more space than the files.
	if need := int64(plan.uploads)*int64(plan.maxSize)/10 + soakFreeDisk; plan.long && freeDisk(t) < need {
		t.Fatalf("got %d MiB of free disk space, want at least %d MiB", freeDisk(t)/mebi, need/mebi)
	}
	servertest.ResetLastingTopology(t, broker)
	if err := errors.Join(ensure(t, uri), openCatalog(t, uri).EnsureIndexes(t.Context())); err != nil {
		t.Fatal(err)
	}
	signer, keys := newTokenKeys(t)
	s.signer = signer
	stores := []string{"MONGODB_URI=" + uri, "EVENTS_URL=" + broker.URL}
	uploadSettings := append([]string{"TOKEN_KEYS_FILE=" + keys, "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"}, stores...)
	for i := range 2 {
		s.replicas = append(s.replicas, s.addFunction(t, "upload", fmt.Sprintf("upload %d", i+1), uploadSettings...))
	}
	record := s.addFunction(t, "record", "record", "MONGODB_URI="+uri)
	s.sweep = s.addFunction(t, "sweep", "sweep",
		append(stores, "SWEEP_INTERVAL=0s", "PENDING_GRACE="+soakPendingGrace.String(), "ORPHAN_GRACE="+plan.orphanGrace.String())...)
	a := adapter(t, broker, record)
	s.components = append(s.components,
		&component{name: "adapter", kill: a.Kill, start: a.Restart, done: a.Done},
		&component{name: "rabbitmq", kill: broker.Kill, start: broker.Restart},
		&component{name: "store", kill: store.Kill, start: store.Restart})

	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, c := range s.components {
		group.Go(func() { s.supervise(ctx, t, c) })
	}
	group.Go(func() { s.sweepRepeatedly(ctx) })
	t.Cleanup(func() { // runs before the cleanup functions that stop the components
		cancel()
		group.Wait()
		for _, c := range s.components { // a test that failed early can leave a component killed
			start, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), servertest.StartTimeout)
			if err := c.ensure(start); err != nil {
				t.Errorf("start %s at the end: %v", c.name, err)
			}
			cancel()
		}
	})
	return s
}

// upload runs the clients until all uploads have ended.
func (s *soak) upload(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), s.plan.limit, errors.New("the time limit for all uploads has passed"))
	defer cancel()
	numbers := make(chan int, s.plan.uploads)
	for i := range s.plan.uploads {
		numbers <- i
	}
	close(numbers)
	var group sync.WaitGroup
	for i := range s.plan.clients {
		c := newSoakClient(t, s, i)
		group.Go(func() {
			for n := range numbers {
				c.upload(ctx, newSoakUpload(s.plan, n))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	for began := time.Now(); ; {
		select {
		case <-done:
			return
		case <-time.After(30 * time.Second):
		}
		t.Logf("after %s: %s; kills: %s", time.Since(began).Round(time.Second), s.ledger.progress(), s.kills())
		if free := freeDisk(t); s.plan.long && free < soakFreeDisk {
			cancel()
			t.Errorf("got %d MiB of free disk space, want at least %d MiB", free/mebi, soakFreeDisk/mebi)
		}
	}
}

// recover waits until every upload and every deletion is complete, every file has a catalog entry, and the event queue
// is empty. If this takes too long, recover returns, and check reports the incomplete work.
func (s *soak) recover(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(s.plan.settle)
	complete := false
	for try := 0; ; try++ {
		err := s.incomplete(t)
		if err == nil && complete {
			return
		}
		if time.Now().After(deadline) {
			t.Logf("incomplete after %v: %v", s.plan.settle, err)
			return
		}
		if complete = err == nil; complete {
			// Check again later, because the request of a client that has given up can still be running.
			time.Sleep(soakPendingGrace)
			continue
		}
		if try%10 == 0 {
			s.terminateAbandoned(t)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// incomplete returns an error that describes the work that is not complete yet.
func (s *soak) incomplete(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, name := range []string{"uploads", "deletions"} {
		if n, err := s.db.Collection(name).CountDocuments(ctx, bson.D{}); err != nil || n != 0 {
			return fmt.Errorf("got %d documents in %s (%w), want none", n, name, err)
		}
	}
	files, err := s.db.Collection("fs.files").CountDocuments(ctx, liveFiles)
	if err != nil {
		return err
	}
	entries, err := s.db.Collection("catalogue").CountDocuments(ctx, bson.D{})
	if err != nil || entries != files {
		return fmt.Errorf("got %d catalog entries of %d files (%w)", entries, files, err)
	}
	depths, err := events.QueueDepths(ctx, s.broker.URL)
	if err != nil || depths.Waiting != 0 {
		return fmt.Errorf("got %d events in the queue (%w), want none", depths.Waiting, err)
	}
	return nil
}

// report prints the figures of the run. The test fails if an upload is lost, duplicated or left incomplete.
func (s *soak) report(t *testing.T, found findings, took, recovered, checked time.Duration) {
	t.Helper()
	dead := -1
	if depths, err := events.QueueDepths(t.Context(), s.broker.URL); err == nil {
		dead = depths.Dead
	}
	l := &s.ledger
	var text strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "\n  %-22s %s", name, fmt.Sprintf(format, args...))
	}
	line("seed", "%d", s.plan.seed)
	line("machine", "%s", machine())
	line("uploads", "%d from %d clients, of 1 B to %d MiB", s.plan.uploads, s.plan.clients, s.plan.maxSize/mebi)
	line("accepted", "%d (%d plain, %d keyed, %d tus), %d MiB",
		len(l.accepted), l.kinds["plain"], l.kinds["keyed"], l.kinds["tus"], l.bytes/mebi)
	line("refused with 5xx", "%d plain uploads, which the clients sent again", l.refused)
	line("unknown", "%d plain uploads", l.unknown)
	line("stored though unaccepted", "%d of the refused and unknown uploads", found.unaccepted)
	line("retries", "%d", l.retries)
	line("kills", "%s", s.kills())
	line("sweeps", "%d, which published at least %d events", s.sweeps.Load(), s.published.Load())
	line("dead letters", "%d", dead)
	line("lost", "%d", len(found.lost))
	line("duplicated", "%d", len(found.duplicated))
	line("orphans", "%d", len(found.orphans))
	line("elapsed", "uploads %.1f s, recovery %.1f s, check %.1f s", took.Seconds(), recovered.Seconds(), checked.Seconds())
	line("throughput", "%.1f MiB/s", float64(l.bytes)/mebi/took.Seconds())
	t.Logf("figures:%s", text.String())
	for what, list := range map[string][]string{"lost": found.lost, "duplicated": found.duplicated, "orphans": found.orphans} {
		if n := len(list); n != 0 {
			t.Errorf("%s: got %d, want 0:\n  %s", what, n, strings.Join(list[:min(n, 20)], "\n  "))
		}
	}
}

// kills describes how often each component was killed.
func (s *soak) kills() string {
	var parts []string
	for _, c := range s.components {
		part := fmt.Sprintf("%s %d", c.name, c.kills.Load())
		if exits := c.exits.Load(); exits > 0 {
			part += fmt.Sprintf(" (and %d exits)", exits)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// freeDisk returns the free disk space in bytes.
func freeDisk(t *testing.T) int64 {
	t.Helper()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(servertest.TempDir(), &disk); err != nil {
		t.Fatal(err)
	}
	return int64(disk.Bavail) * disk.Bsize
}

// machine describes the machine.
func machine() string {
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo") // without the file, the model is unknown
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	var system syscall.Sysinfo_t
	_ = syscall.Sysinfo(&system) // never fails for a valid pointer
	memory := uint64(system.Totalram) * uint64(system.Unit)
	return fmt.Sprintf("%d cores of %s, %d MiB of memory, %s", runtime.NumCPU(), model, memory/mebi, runtime.Version())
}

// sortedKeys returns the keys of m in ascending order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
