package integration

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/token"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// uploader is a client of one or more replicas of the real upload function.
type uploader struct {
	urls     []string      // the URLs of the replicas
	bearer   string        // the value of the Authorization header
	signer   *token.Signer // signed the token in bearer
	uri      string        // the URI of the database
	db       *mongo.Database
	settings []string // the settings of every replica, without the stores
}

// startUpload starts replicas of the upload function with a new database.
func startUpload(t *testing.T, replicas int, eventsURL string, settings ...string) *uploader {
	t.Helper()
	uri := servertest.MongoDB(t).NewDatabase(t)
	files, err := content.Open(uri)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(files.EnsureIndexes(t.Context()), files.Close()); err != nil {
		t.Fatal(err)
	}
	signer, keys := newTokenKeys(t)
	u := &uploader{uri: uri, db: servertest.Database(t, uri), signer: signer}
	_, u.bearer, _ = strings.Cut(bearerOf(t, signer, "0190-ada", "ada", token.RoleUser), ": ")
	u.settings = append(settings, "TOKEN_KEYS_FILE="+keys, "TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom")
	for range replicas {
		u.urls = append(u.urls, runFunction(t, "upload", append(u.settings, "MONGODB_URI="+uri, "EVENTS_URL="+eventsURL)...))
	}
	return u
}

// post uploads a file and returns the status and the ID of the file. An empty key omits the Idempotency-Key header.
func (u *uploader) post(t *testing.T, replica int, body, key string) (status int, id string) {
	t.Helper()
	return u.do(t, u.request(t, u.urls[replica], body, key))
}

// do sends a request that uploads a file. It returns the status and the ID of the file.
func (u *uploader) do(t *testing.T, request *http.Request) (status int, id string) {
	t.Helper()
	response, err := httpClient.Do(request)
	if err != nil {
		t.Errorf("upload a file: %v", err)
		return 0, ""
	}
	defer response.Body.Close()
	var file struct {
		ID string `json:"id"`
	}
	text, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || (file.ID != "") != (response.StatusCode == http.StatusAccepted) {
		t.Errorf("got %s %s (%v), want an id exactly if the status is 202", response.Status, text, err)
	}
	if response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
		t.Error("got a 503 without Retry-After")
	}
	return response.StatusCode, file.ID
}

// request returns the request that post sends.
func (u *uploader) request(t *testing.T, url, body, key string) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/upload?name=a.txt", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", u.bearer)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	return request
}

// unusual is the longest permitted response time while RabbitMQ fails. Publishing takes at most 3 s of it.
const unusual = 20 * time.Second

// TestUploadDuringBrokerFailures proves that an upload is accepted in every failure of RabbitMQ, and that sweep
// publishes the event after the failure.
func TestUploadDuringBrokerFailures(t *testing.T) {
	broker := servertest.OwnRabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	var watch atomic.Pointer[func(moment) bool]
	proxy := newWire(t, host(t, broker.URL), amqpFrames, func(m moment) bool {
		do := watch.Load()
		return do != nil && (*do)(m)
	})
	u := startUpload(t, 1, proxy.through(t, broker.URL))
	when := func(at moment, times int32, do func()) {
		var left atomic.Int32
		left.Store(times)
		cut := func(m moment) bool {
			if m != at || left.Add(-1) < 0 {
				return false
			}
			do()
			return true
		}
		watch.Store(&cut)
	}
	onQueue := func(t *testing.T, do func(ch *amqp.Channel) error) {
		t.Helper()
		if err := do(servertest.Channel(t, broker)); err != nil {
			t.Fatal(err)
		}
	}
	sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE=1ms", "ORPHAN_GRACE=1h")
	held, unconfirmed := moment{"message", false, false}, moment{"ack", true, false}
	nothing := func() {}

	for _, c := range []struct {
		name    string
		disturb func(t *testing.T)
		mend    func(t *testing.T)
		told    int // the events in the queue after the failure, or -1 if their number is unknown
	}{
		{"no failure", func(*testing.T) {}, nil, 1},
		{"no queue", func(t *testing.T) {
			onQueue(t, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(events.Queue, false, false, false); return err })
		}, func(t *testing.T) { servertest.ResetTopology(t, broker) }, 0},
		{"no exchange", func(t *testing.T) {
			onQueue(t, func(ch *amqp.Channel) error { return ch.ExchangeDelete(events.Exchange, false, false) })
		}, func(t *testing.T) { servertest.ResetTopology(t, broker) }, 0},
		{"full queue", func(t *testing.T) {
			onQueue(t, func(ch *amqp.Channel) error {
				_, err := ch.QueueDelete(events.Queue, false, false, false)
				if err == nil {
					_, err = ch.QueueDeclare(events.Queue, true, false, false, false, amqp.Table{
						"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": 1})
				}
				return cmp.Or(err, ch.QueueBind(events.Queue, events.TypeFileStored, events.Exchange, false, nil))
			})
			for range 3 {
				if status, _ := u.post(t, 0, "hello", ""); status != http.StatusAccepted {
					t.Errorf("got status %d, want 202", status)
				}
			}
		}, func(t *testing.T) { servertest.ResetTopology(t, broker) }, -1},
		{"connection lost", func(*testing.T) { when(held, 1, nothing) }, nil, 1}, // upload publishes the event again
		{"confirmation lost", func(*testing.T) { when(unconfirmed, 1, nothing) }, nil, 1},
		{"memory alarm", func(t *testing.T) { broker.Rabbitmqctl(t, "set_vm_memory_high_watermark", "absolute", "1") },
			func(t *testing.T) { broker.Rabbitmqctl(t, "set_vm_memory_high_watermark", "0.4") }, -1},
		{"killed before the event", func(t *testing.T) {
			servertest.ResetLastingTopology(t, broker)
			when(held, 1, func() { _ = broker.Kill() })
		}, func(t *testing.T) { mustRestart(t, broker) }, 0},
		{"killed before the confirmation", func(t *testing.T) {
			servertest.ResetLastingTopology(t, broker)
			when(unconfirmed, 1, func() { _ = broker.Kill() })
		}, func(t *testing.T) { mustRestart(t, broker) }, 1},
		{"killed before the request", func(t *testing.T) {
			servertest.ResetLastingTopology(t, broker)
			_ = broker.Kill()
		}, func(t *testing.T) { mustRestart(t, broker) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			servertest.ResetTopology(t, broker)
			servertest.Eventually(t, servertest.Recovery, "upload publishes events before the failure", func() error {
				u.post(t, 0, "before", "")
				if len(eventIDs(t, broker)) == 0 {
					return errors.New("got no event")
				}
				return nil
			})
			for _, name := range []string{"fs.files", "fs.chunks", "uploads"} {
				if _, err := u.db.Collection(name).DeleteMany(t.Context(), bson.D{}); err != nil {
					t.Fatal(err)
				}
			}
			c.disturb(t)
			start := time.Now()
			status, id := u.post(t, 0, "hello", "")
			if took := time.Since(start); status != http.StatusAccepted || took > unusual {
				t.Errorf("got status %d after %v, want 202 within %v", status, took, unusual)
			}
			watch.Store(nil)
			if c.mend != nil {
				c.mend(t)
			}
			if n := servertest.CountDocuments(t, u.db.Collection("uploads"), bson.D{{Key: "_id", Value: id}}); n != 1 {
				t.Errorf("got %d notes of file %s, want 1, because record has not processed the event", n, id)
			}
			told := eventIDs(t, broker)
			if c.told >= 0 && len(told) != c.told {
				t.Errorf("got %d events, want %d", len(told), c.told)
			}
			servertest.Eventually(t, servertest.Recovery, "sweep publishes the events of all files", func() error {
				postSweep(t, sweep)
				for id := range eventIDs(t, broker) {
					told[id] = true
				}
				state, err := servertest.ReadStore(t.Context(), u.db)
				for id := range state.Files {
					if !told[id] {
						err = fmt.Errorf("got no event of file %s", id)
					}
				}
				return err
			})
		})
	}
}

// mustRestart restarts the broker. If that fails, the test fails.
func mustRestart(t *testing.T, broker servertest.Vhost) {
	t.Helper()
	if err := broker.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// eventIDs removes all events from the queue and returns the set of their IDs.
func eventIDs(t *testing.T, broker servertest.Vhost) map[string]bool {
	t.Helper()
	ch := servertest.Channel(t, broker)
	ids := map[string]bool{}
	for {
		message, ok, err := ch.Get(events.Queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return ids
		}
		ids[message.MessageId] = true
	}
}

// TestUploadOnceUnderOneKey proves that concurrent uploads with the same idempotency key, to two replicas, store and
// announce only one file.
func TestUploadOnceUnderOneKey(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 2, broker.URL)
	for round := range 5 {
		key := fmt.Sprintf("round %d", round)
		const n = 10
		ids := make([]string, n)
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				status, id := u.post(t, i%2, key, `"`+key+`"`)
				if ids[i] = id; status != http.StatusAccepted {
					t.Errorf("got status %d, want 202", status)
				}
			})
		}
		group.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("got the IDs %v, want the same ID in all responses", ids)
				break
			}
		}
		if told := eventIDs(t, broker); !told[ids[0]] || len(told) != 1 {
			t.Errorf("got the events %v, want only the event of file %s", told, ids[0])
		}
	}
	for collection, want := range map[string]int64{"fs.files": 5, "fs.chunks": 5, "uploads.claims": 5, "uploads": 5} {
		if n := servertest.CountDocuments(t, u.db.Collection(collection), bson.D{}); n != want {
			t.Errorf("got %d documents in %s, want %d", n, collection, want)
		}
	}
}

// TestUploadQuota proves that the files of a user never exceed the quota, whether they are uploaded one after another
// or concurrently to two replicas.
func TestUploadQuota(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 2, broker.URL, "UPLOAD_QUOTA=10KiB")
	kibi := func(n int) string { return strings.Repeat("x", n<<10) }
	for _, step := range []struct{ kibi, status int }{{6, 202}, {5, 507}, {4, 202}, {1, 507}, {0, 202}} {
		if status, _ := u.post(t, 0, kibi(step.kibi), ""); status != step.status {
			t.Errorf("%d KiB: got status %d, want %d", step.kibi, status, step.status)
		}
	}
	for _, name := range []string{"fs.files", "fs.chunks", "uploads"} {
		if _, err := u.db.Collection(name).DeleteMany(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
	}
	var accepted atomic.Int64
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			status, _ := u.post(t, i%2, kibi(3), "")
			switch status {
			case http.StatusAccepted:
				accepted.Add(1)
			case http.StatusInsufficientStorage:
			default:
				t.Errorf("got status %d, want 202 or 507", status)
			}
		})
	}
	group.Wait()
	if n := accepted.Load(); n > 3 {
		t.Errorf("got %d accepted files of 3 KiB, want at most 3 with a quota of 10 KiB", n)
	}
	if n := servertest.CountDocuments(t, u.db.Collection("fs.files"), bson.D{}); n != accepted.Load() {
		t.Errorf("got %d files, want the %d accepted files", n, accepted.Load())
	}
	if n := servertest.CountDocuments(t, u.db.Collection("uploads"), bson.D{}); n != accepted.Load() {
		t.Errorf("got %d notes, want those of the %d accepted files", n, accepted.Load())
	}
}
