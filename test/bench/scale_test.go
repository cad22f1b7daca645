package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sync/errgroup"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/mongodb"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

const (
	scaleFiles    = 1_000_000        // files at the last step, by default
	embeddedFiles = 10_000           // … if the store is the embedded FerretDB
	runs          = 30               // measured runs of an operation
	measureLimit  = 30 * time.Second // time limit for all runs of an operation at a step
	smallSize     = 4 << 10          // size of the files that are uploaded to measure an operation, in bytes
	meanSize      = 1 << 20          // size of the files in the load tests, in bytes
	settleLimit   = time.Minute      // longest time until the machine is idle after the inserts
	loadTime      = 10 * time.Second // duration of a load test
	loadClients   = 16               // concurrent clients of a load test
	recovered     = 100              // files whose events a sweep publishes
	expired       = 10_000           // expired idempotency keys that a sweep deletes
	sweepGrace    = time.Second      // PENDING_GRACE of the sweep function
)

// costs contains the measurements of one run of TestScale. The simulation reads them.
type costs struct {
	Machine    string `json:"machine"`
	Cores      int    `json:"cores"`
	Store      string `json:"store"`
	Go         string `json:"go"`
	Commit     string `json:"commit"`
	Date       string `json:"date"`
	Operations []cost `json:"operations"`
	Loads      []load `json:"loads"`
	Sizes      []size `json:"sizes"`
	// StoredPerByte is the storage that a byte of a file uses, in bytes.
	StoredPerByte float64 `json:"stored_per_byte"`
	Broker        broker  `json:"broker"`
}

// cost is the cost of an operation at a step.
type cost struct {
	Operation string `json:"operation"`
	// Entries is the number of catalog entries, and Files is the number of files.
	Entries int `json:"entries"`
	Files   int `json:"files"`
	// Commands is the median number of commands to the store, and Millis the median duration in milliseconds.
	Commands float64 `json:"commands"`
	Millis   float64 `json:"ms"`
	Runs     int     `json:"runs"`
	// Failure is the error of the last run. It is empty if all runs succeeded.
	Failure string `json:"failure,omitempty"`
}

// load is the result of a load test.
type load struct {
	Operation string `json:"operation"`
	Clients   int    `json:"clients"`
	// PerSecond is the throughput of all clients together. Millis is the mean duration of an operation in milliseconds.
	PerSecond float64 `json:"per_second"`
	Millis    float64 `json:"ms"`
	// FunctionCPU is the processor time of the function for each operation in milliseconds. ClientCPU is that of the
	// clients and the proxy, which are in this process. StoreCPU is that of all other processes on the machine.
	FunctionCPU float64 `json:"function_cpu_ms"`
	ClientCPU   float64 `json:"client_cpu_ms"`
	StoreCPU    float64 `json:"store_cpu_ms"`
}

// size is the storage that a collection uses, in bytes.
type size struct {
	Collection string  `json:"collection" bson:"-"`
	Documents  int     `json:"documents" bson:"-"`
	Storage    float64 `json:"storage" bson:"storageSize"`
	Indexes    float64 `json:"indexes" bson:"totalIndexSize"`
}

// each returns the storage for each document.
func (s size) each() float64 { return (s.Storage + s.Indexes) / float64(s.Documents) }

// broker contains the measurements of RabbitMQ.
type broker struct {
	// PerSecond is the number of events per second that loadClients publishers publish to the queue. Millis is the
	// duration of a publication by one publisher, in milliseconds.
	PerSecond float64 `json:"per_second"`
	Millis    float64 `json:"ms"`
	// Bytes is the size of the message of an event. Queued is the number of events in the queue at the end.
	Bytes  float64 `json:"bytes"`
	Queued int     `json:"queued"`
}

// scale is the state of TestScale.
type scale struct {
	*testing.T
	costs
	wire      *wire
	db        *mongo.Database
	filler    *filler
	signer    *token.Signer
	client    *http.Client
	functions map[string]*limited
	uploaded  float64 // the number of bytes that the load tests have uploaded

	mu       sync.Mutex
	events   []published // the published events that are not recorded yet
	refusing bool        // whether the sink refuses all events
}

// published is a request that publishes an event.
type published struct {
	header http.Header
	body   []byte
}

// TestScale measures the cost of each operation, in commands and milliseconds, while the number of files grows by a
// factor of 10 at each step. At the last step, only the number of catalog entries grows. It then measures the
// throughput of concurrent uploads and of RabbitMQ. It writes all results to costs.json, from which TestScalePages
// creates the plots and tables. FILES is the number of files at the last step but one.
//
// The functions are the real programs. They use the store in MONGODB_ADMIN_URI through a proxy that counts the
// commands, or the embedded FerretDB. Nearly all files are inserted in bulk, as the documents that the packages content
// and catalog insert.
func TestScale(t *testing.T) {
	if os.Getenv("SCALE") == "" {
		t.Skip("this test takes long: run `make bench SCALE=1`")
	}
	files := scaleFiles
	if os.Getenv("MONGODB_ADMIN_URI") == "" {
		files = embeddedFiles
	}
	if text := os.Getenv("FILES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1000 || strings.Trim(text, "0") != "1" {
			t.Fatalf("FILES: got %q, want a power of 10 of at least 1000", text)
		}
		files = n
	}
	s := newScale(t)
	for _, n := range []int{files / 100, files / 10, files} {
		s.fill(n, false)
		s.measureFiles()
		s.measureCatalog()
	}
	s.Sizes = s.measureSizes()
	s.measureLoads()
	s.measureStored()
	s.fill(files*10, true)
	s.measureCatalog()
	s.measureBroker()
	if err := s.save(costsFile); err != nil {
		t.Fatal(err)
	}
}

// newScale starts the functions with an empty database.
func newScale(t *testing.T) *scale {
	s := &scale{T: t, costs: describe(t), functions: map[string]*limited{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: loadClients}}}
	uri := servertest.MongoDB(t).NewDatabase(t)
	s.db = servertest.Database(t, uri)
	files, _ := servertest.OpenContent(t, uri) // creates the indexes
	if err := catalog.New(files.Database()).EnsureIndexes(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.filler = newFiller(t, s.db)
	s.wire = startWire(t, uri)
	s.Store = storeName(t, s.db)
	sink := httptest.NewServer(http.HandlerFunc(s.receive))
	t.Cleanup(sink.Close)
	dir := t.TempDir()
	env := append(settings(t, dir), "MONGODB_URI="+s.wire.uri, "EVENTS_URL="+sink.URL, "LOG_LEVEL=error",
		"REQUEST_TIMEOUT=230s", "GOMEMLIMIT=128MiB", "PENDING_GRACE="+sweepGrace.String(), "SWEEP_INTERVAL=0s")
	for _, name := range []string{"upload", "record", "files", "sweep"} {
		s.functions[name] = startLimited(t, uploadLimit, build(t, dir, name), env)
	}
	s.functions["upload with a quota"] = startLimited(t, uploadLimit, filepath.Join(dir, "upload"), append(env, "UPLOAD_QUOTA=1024GiB"))
	var err error
	if s.signer, err = token.LoadSigner(filepath.Join(dir, "key.jwk"), "bench", "bench", 24*time.Hour, time.Now); err != nil {
		t.Fatal(err)
	}
	return s
}

// describe returns the description of the machine and of the code.
func describe(t *testing.T) costs {
	commit, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		t.Fatalf("git describe: %v", err)
	}
	processor := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, found := strings.Cut(string(text), "model name\t: "); found {
			processor, _, _ = strings.Cut(rest, "\n")
		}
	}
	return costs{
		Machine: processor,
		Cores:   runtime.NumCPU(),
		Go:      strings.TrimPrefix(runtime.Version(), "go"),
		Commit:  strings.TrimSpace(string(commit)),
		Date:    time.Now().UTC().Format(time.DateOnly),
	}
}

// storeName returns the name and the version of the store.
func storeName(t *testing.T, db *mongo.Database) string {
	ctx, cancel := context.WithTimeout(t.Context(), mongodb.CallTimeout)
	defer cancel()
	var info struct { // FerretDB 1 and FerretDB 2 report their own versions in different members
		Version  string `bson:"version"`
		FerretDB struct {
			Version string `bson:"version"`
		} `bson:"ferretdb"`
		FerretVersion string `bson:"ferretdbVersion"`
	}
	if err := db.RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&info); err != nil {
		t.Fatal(err)
	}
	if v := info.FerretDB.Version + info.FerretVersion; v != "" {
		return "FerretDB " + v
	}
	return "MongoDB " + info.Version
}

// receive is the sink of the events that upload and sweep publish.
func (s *scale) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.refusing {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.events = append(s.events, published{r.Header, body})
	w.WriteHeader(http.StatusNoContent)
}

// refuse sets whether the sink refuses all events.
func (s *scale) refuse(refusing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = refusing
}

// bearer returns an access token of a user.
func (s *scale) bearer(id, role string) string {
	raw, _, err := s.signer.Sign(token.Subject{ID: id, Username: "bench", Roles: []string{role}, Version: 1})
	if err != nil {
		s.Fatal(err)
	}
	return raw
}

// send sends a request to a function and returns the body of the response. The error has the status of the response, if
// the status is not want.
func (s *scale) send(method, function, target, bearer string, header http.Header, body []byte, want int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.Context(), 4*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.functions[function].url+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s", response.Status)
	}
	return text, err
}

// upload uploads a file of the given size and returns its ID.
func (s *scale) upload(function, bearer string, size int) (id string, err error) {
	text, err := s.send(http.MethodPost, function, "/upload?name=report-w042.txt", bearer,
		http.Header{"Content-Type": {"text/plain"}}, servertest.RandomBytes(size), http.StatusAccepted)
	var f struct {
		ID string `json:"id"`
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	return f.ID, err
}

// record sends one published event to record, and reports whether there was one.
func (s *scale) record() (found bool, err error) {
	s.mu.Lock()
	if len(s.events) == 0 {
		s.mu.Unlock()
		return false, nil
	}
	last := len(s.events) - 1
	event := s.events[last]
	s.events = s.events[:last]
	s.mu.Unlock()
	_, err = s.send(http.MethodPost, "record", "/", "", event.header, event.body, http.StatusNoContent)
	return true, err
}

// recordAll sends all published events to record.
func (s *scale) recordAll() {
	for found := true; found; {
		var err error
		if found, err = s.record(); err != nil {
			s.Fatalf("record: %v", err)
		}
	}
}

// fill inserts files until there are n files, or only catalog entries until there are n entries.
func (s *scale) fill(n int, onlyEntries bool) {
	began, before := time.Now(), s.filler.entries
	if err := s.filler.fill(s.Context(), n, onlyEntries); err != nil {
		s.Fatal(err)
	}
	took := time.Since(began)
	fmt.Printf("inserted documents of %d files in %v, %.0f files/s\n", s.filler.entries-before, took.Round(time.Second), float64(s.filler.entries-before)/took.Seconds())
	s.settle()
}

// settle waits until the machine is idle, because a store continues to work after many inserts. It waits up to
// settleLimit, because other programs can use the machine.
func (s *scale) settle() {
	const interval = 3 * time.Second
	began := time.Now()
	for time.Since(began) < settleLimit {
		before := machineCPU()
		time.Sleep(interval)
		if machineCPU()-before < interval*time.Duration(s.Cores)/10 {
			return
		}
	}
	fmt.Printf("the machine is still busy after %v\n", settleLimit)
}

// measure runs an operation twice for each run, and uses only the second half of the runs.
func (s *scale) measure(operation string, each func(run int) error) {
	s.measureRuns(operation, 1, runs, runs, each)
}

// measureRuns runs an operation warm+n times and adds the medians of the last n runs to the costs. An operation
// consists of parts equal parts, and the costs are those of one part.
func (s *scale) measureRuns(operation string, parts, warm, n int, each func(run int) error) {
	c := cost{Operation: operation, Entries: s.filler.entries, Files: s.filler.files}
	var commands, millis []float64
	var failure error
	for run, deadline := 0, time.Now().Add(measureLimit); run < warm+n && (time.Now().Before(deadline) || len(millis) == 0) && failure == nil; run++ {
		if run < warm && time.Until(deadline) < measureLimit/2 {
			run = warm // a slow operation needs no more runs for the warm-up
		}
		before, began := s.wire.commands.Load(), time.Now()
		failure = each(run % n)
		took := time.Since(began)
		if run >= warm && failure == nil {
			commands = append(commands, float64(s.wire.commands.Load()-before)/float64(parts))
			millis = append(millis, float64(took.Microseconds())/1000/float64(parts))
		}
	}
	c.Runs, c.Commands, c.Millis = len(millis), median(commands), median(millis)
	if failure != nil {
		c.Failure = failure.Error()
	}
	s.Operations = append(s.Operations, c)
	fmt.Printf("%9d %-34s %6.1f commands %10.2f ms %3d runs %s\n", c.Entries, operation, c.Commands, c.Millis, c.Runs, c.Failure)
}

// median returns the median of values. If values is empty, median returns 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// The names of the operations. The simulation reads their costs by these names.
const (
	readByID     = "read one document by its _id"
	uploadFile   = "upload"
	uploadQuota  = "upload with a quota"
	recordFile   = "record"
	deleteFile   = "delete"
	sweepIdle    = "sweep without work"
	sweepFile    = "sweep, for each recovered file"
	sweepClaims  = "sweep, 10,000 expired idempotency keys"
	listUser     = "list, one user"
	listLarge    = "list, a user with N/10 files"
	listAll      = "list, all users"
	searchUser   = "search, one user"
	searchLarge  = "search, a user with N/10 files"
	searchAll    = "search, all users"
	searchAbsent = "search, all users, no match"
	uploadSmall  = "upload of 4 KiB"
	uploadMean   = "upload of 1 MiB"
)

// measureFiles measures the operations that read or change the files.
func (s *scale) measureFiles() {
	n := s.filler.files
	user := func(run int) string { return s.bearer(someUser(n, run), token.RoleUser) }
	type uploaded struct{ id, bearer string }
	var files []uploaded
	upload := func(function string) func(run int) error {
		return func(run int) error {
			bearer := user(run)
			id, err := s.upload(function, bearer, smallSize)
			files = append(files, uploaded{id, bearer})
			return err
		}
	}
	s.measure(uploadFile, upload("upload"))
	s.measure(recordFile, func(int) error {
		_, err := s.record()
		return err
	})
	s.measure(uploadQuota, upload("upload with a quota"))
	s.recordAll()
	reader := servertest.Database(s.T, s.wire.uri).Collection("fs.files")
	s.measure(readByID, func(run int) error {
		ctx, cancel := context.WithTimeout(s.Context(), mongodb.CallTimeout)
		defer cancel()
		return reader.FindOne(ctx, mongodb.ID(files[run].id)).Err()
	})
	s.measure(deleteFile, func(int) error {
		f := files[len(files)-1]
		files = files[:len(files)-1]
		_, err := s.send(http.MethodDelete, "files", "/files/"+f.id, f.bearer, nil, nil, http.StatusNoContent)
		return err
	})
	for _, f := range files {
		if _, err := s.send(http.MethodDelete, "files", "/files/"+f.id, f.bearer, nil, nil, http.StatusNoContent); err != nil {
			s.Fatalf("delete a file: %v", err)
		}
	}
	s.measure(sweepIdle, func(int) error {
		_, err := s.send(http.MethodPost, "sweep", "/", "", nil, nil, http.StatusOK)
		return err
	})
	s.interrupt(user)
	s.measureRuns(sweepFile, recovered, 0, 1, func(int) error {
		text, err := s.send(http.MethodPost, "sweep", "/", "", nil, nil, http.StatusOK)
		var done struct {
			Published int `json:"published"`
		}
		if err == nil {
			err = json.Unmarshal(text, &done)
		}
		if err == nil && done.Published != recovered {
			err = fmt.Errorf("the sweep published %d events, want %d", done.Published, recovered)
		}
		return err
	})
	s.recordAll()
	s.addClaims()
	s.measureRuns(sweepClaims, 1, 0, 1, func(int) error {
		text, err := s.send(http.MethodPost, "sweep", "/", "", nil, nil, http.StatusOK)
		var done struct {
			Forgotten int `json:"forgotten_claims"`
		}
		if err == nil {
			err = json.Unmarshal(text, &done)
		}
		if err == nil && done.Forgotten != expired {
			err = fmt.Errorf("the sweep deleted %d claims, want %d", done.Forgotten, expired)
		}
		return err
	})
}

// addClaims uploads a file with an idempotency key and inserts copies of the key's claim, which have expired.
func (s *scale) addClaims() {
	_, err := s.send(http.MethodPost, "upload", "/upload?name=report.txt", s.bearer(userID(largeUser), token.RoleUser),
		http.Header{"Idempotency-Key": {`"` + strconv.Itoa(s.filler.files) + `"`}}, []byte("content"), http.StatusAccepted)
	if err != nil {
		s.Fatalf("upload: %v", err)
	}
	s.recordAll()
	ctx, cancel := context.WithTimeout(s.Context(), fillTimeout)
	defer cancel()
	claims := s.db.Collection("uploads.claims")
	var claim bson.M
	if err := claims.FindOneAndDelete(ctx, bson.D{}).Decode(&claim); err != nil {
		s.Fatalf("find the claim: %v", err)
	}
	claim["claimed_at"] = time.Now().Add(-48 * time.Hour)
	copies := make([]any, expired)
	for i := range copies {
		other := maps.Clone(claim)
		other["_id"] = fmt.Sprintf("%v%06d", claim["_id"], i)
		copies[i] = other
	}
	if _, err := claims.InsertMany(ctx, copies); err != nil {
		s.Fatalf("insert the claims: %v", err)
	}
}

// interrupt uploads files whose events are not published, and waits until a sweep publishes them.
func (s *scale) interrupt(user func(run int) string) {
	s.refuse(true)
	defer s.refuse(false)
	for run := range recovered {
		if _, err := s.upload("upload", user(run), smallSize); err != nil {
			s.Fatalf("upload: %v", err)
		}
	}
	time.Sleep(sweepGrace + 100*time.Millisecond)
}

// measureCatalog measures the operations that read the catalog.
func (s *scale) measureCatalog() {
	n := s.filler.files // at the last step, there are no new users
	someone := func(run int) string { return s.bearer(someUser(n, run), token.RoleUser) }
	large := func(int) string { return s.bearer(userID(largeUser), token.RoleUser) }
	admin := func(int) string { return s.bearer(userID(largeUser), token.RoleAdmin) }
	for _, list := range []struct {
		operation, query string
		bearer           func(run int) string
	}{
		{listUser, "", someone}, {listLarge, "", large}, {listAll, "", admin},
		{searchUser, "?q=w042", someone}, {searchLarge, "?q=w042", large}, {searchAll, "?q=w042", admin},
		{searchAbsent, "?q=absent", admin},
	} {
		s.measure(list.operation, func(run int) error {
			_, err := s.send(http.MethodGet, "files", "/files"+list.query, list.bearer(run), nil, nil, http.StatusOK)
			return err
		})
	}
}

// measureLoads measures the throughput and the processor time of uploads and of record, first with one client and then
// with several.
func (s *scale) measureLoads() {
	user := func(run int) string { return s.bearer(someUser(s.filler.files, run), token.RoleUser) }
	for _, clients := range []int{1, loadClients} {
		for _, upload := range []struct {
			operation string
			size      int
		}{{uploadSmall, smallSize}, {uploadMean, meanSize}} {
			n := s.measureLoad(upload.operation, "upload", clients, func(run int) (bool, error) {
				_, err := s.upload("upload", user(run), upload.size)
				return true, err
			})
			s.uploaded += float64(n * upload.size)
		}
		s.measureLoad(recordFile, "record", clients, func(int) (bool, error) { return s.record() })
	}
	s.recordAll()
}

// measureLoad runs an operation with several clients for loadTime, or until each returns false.
func (s *scale) measureLoad(operation, function string, clients int, each func(run int) (more bool, err error)) (operations int) {
	var group errgroup.Group
	done := make([]int, clients)
	busy, used, own := machineCPU(), s.functions[function].cpu(s), ownCPU(s)
	began := time.Now()
	for client := range clients {
		group.Go(func() error {
			for run := client; time.Since(began) < loadTime; run += clients {
				more, err := each(run)
				if err != nil || !more {
					return err
				}
				done[client]++
			}
			return nil
		})
	}
	err := group.Wait()
	took := time.Since(began)
	busy, used, own = machineCPU()-busy, s.functions[function].cpu(s)-used, ownCPU(s)-own
	total := 0
	for _, n := range done {
		total += n
	}
	if err != nil || total == 0 {
		s.Fatalf("%s with %d clients: %d operations, %v", operation, clients, total, err)
	}
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(total) }
	l := load{operation, clients, float64(total) / took.Seconds(), millis(took) * float64(clients), millis(used), millis(own), max(0, millis(busy-used-own))}
	s.Loads = append(s.Loads, l)
	fmt.Printf("%-20s %3d clients %8.1f/s %8.2f ms, CPU: function %.2f ms, store %.2f ms\n", operation, clients, l.PerSecond, l.Millis, l.FunctionCPU, l.StoreCPU)
	return total
}

// machineCPU returns the processor time of all processes on the machine, or 0 if it is unknown.
func machineCPU() time.Duration {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return 0
	}
	defer file.Close()
	line, err := bufio.NewReader(file).ReadString('\n')
	fields := strings.Fields(line) // cpu, user, nice, system, idle, iowait, irq, softirq, …
	if err != nil || len(fields) < 8 {
		return 0
	}
	const ticks = 100 // clock ticks per second (USER_HZ)
	sum := 0
	for i, field := range fields[1:8] {
		if n, err := strconv.Atoi(field); err == nil && i != 3 && i != 4 {
			sum += n
		}
	}
	return time.Duration(sum) * time.Second / ticks
}

// measureSizes measures the storage that the collections use.
func (s *scale) measureSizes() []size {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	sizes := make([]size, len(fileCollections))
	for i, collection := range fileCollections {
		if err := s.db.RunCommand(ctx, bson.D{{Key: "collStats", Value: collection}}).Decode(&sizes[i]); err != nil {
			s.Fatalf("collStats %s: %v", collection, err)
		}
		sizes[i].Collection, sizes[i].Documents = collection, s.filler.files // collStats reports only an estimate
		fmt.Printf("%+v\n", sizes[i])
	}
	return sizes
}

// measureStored measures the storage of the bytes of files. It uses the growth of the collections during the load
// tests.
func (s *scale) measureStored() {
	grown := 0.0
	for i, after := range s.measureSizes() {
		grown += after.Storage - s.Sizes[i].Storage
	}
	s.StoredPerByte = grown / s.uploaded
}

// measureBroker measures how fast events are published to RabbitMQ while nothing consumes them.
func (s *scale) measureBroker() {
	vhost := servertest.RabbitMQ(s.T).NewVhost(s.T)
	if err := events.DeclareTopology(s.Context(), vhost.URL); err != nil {
		s.Fatal(err)
	}
	publisher := servertest.Publisher(s.T, vhost.URL)
	event, _ := servertest.FileStored(s.T)
	body, err := event.MarshalJSON()
	if err != nil {
		s.Fatal(err)
	}
	b := broker{Bytes: float64(len(body))}
	publish := func(clients int) (perSecond float64) {
		var group errgroup.Group
		done := make([]int, clients)
		began := time.Now()
		for client := range clients {
			group.Go(func() error {
				for time.Since(began) < loadTime {
					ctx, cancel := context.WithTimeout(s.Context(), mongodb.CallTimeout)
					err := publisher.Publish(ctx, event)
					cancel()
					if err != nil {
						return err
					}
					done[client]++
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			s.Fatalf("publish: %v", err)
		}
		total := 0
		for _, n := range done {
			total += n
		}
		return float64(total) / time.Since(began).Seconds()
	}
	b.Millis = 1000 / publish(1)
	b.PerSecond = publish(loadClients)
	depths, err := events.QueueDepths(s.Context(), vhost.URL)
	if err != nil {
		s.Fatal(err)
	}
	b.Queued = depths.Waiting
	s.Broker = b
	fmt.Printf("%+v\n", b)
}

// save writes the costs to a file.
func (c costs) save(path string) error {
	text, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, append(text, '\n'), 0o644))
}
