//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// queue and deadQueue are the names of the queues in RabbitMQ. Package events defines the same names.
	queue     = "strongroom.files"
	deadQueue = "strongroom.files.dead"
	// sourceSelector selects the Deployment of the source's adapter, which has a generated name.
	sourceSelector = "eventing.knative.dev/SourceName=strongroom-files"
)

// TestNothingIsLostWithTheSource proves that every accepted file reaches the catalog although the adapter of the
// RabbitMQ source is restarted during at least 200 uploads. The test restarts the adapter once in normal operation, and
// once while MongoDB is down for 30 s and the adapter has undelivered events. An adapter that stops can reject its
// undelivered events, which become dead letters. `setup redrive` then brings their files into the catalog. Whether the
// adapter rejects events is a race in the adapter, so the test also rejects a few events itself.
func TestNothingIsLostWithTheSource(t *testing.T) {
	s := open(t)
	broker := dialBroker(t)
	before := broker.dead(t) // the dead letters of other tests
	up := s.startUploads(t)
	adapter := strings.TrimSpace(kubectl(t, "get", "deployment", "--selector", sourceSelector, "-o", "name"))
	if strings.Count(adapter, "deployment.apps/") != 1 {
		t.Fatalf("got the Deployments %q of the source, want one", adapter)
	}
	settled := func() { kubectl(t, "rollout", "status", adapter, "--timeout=100s") }
	t.Cleanup(func() { kubectl(t, "scale", adapter, "--replicas=1") })

	up.wait(t, 40)
	kubectl(t, "rollout", "restart", adapter)
	settled()

	// Events accumulate while the adapter is not running. The adapter receives them while MongoDB is down, so that it
	// has undelivered events when it is restarted.
	kubectl(t, "scale", adapter, "--replicas=0")
	settled()
	up.wait(t, up.count()+30)
	const givenUp = 5
	broker.giveUp(t, givenUp)
	start := stopStore(t, "mongodb")
	away := time.Now()
	kubectl(t, "scale", adapter, "--replicas=1")
	settled()
	eventually(t, time.Minute, func() string {
		if n := broker.waiting(t, queue); n > 20 { // the adapter has received the other events
			return fmt.Sprintf("got %d ready events in %s, want at most 20", n, queue)
		}
		return ""
	})
	kubectl(t, "rollout", "restart", adapter)
	settled()
	time.Sleep(time.Until(away.Add(30 * time.Second)))
	start()
	settled()
	up.wait(t, max(200, up.count()+20))
	files := up.stop(t)

	var dead map[string]bool
	uncataloged := files
	eventually(t, 6*time.Minute, func() string { // the retries of the source can take that long
		dead = broker.dead(t)
		uncataloged = s.without(t, uncataloged)
		for _, f := range uncataloged {
			if !dead[f.id] {
				return fmt.Sprintf("file %s (%s): got neither a catalog entry nor a dead letter", f.name, f.id)
			}
		}
		return ""
	})
	if n := broker.waiting(t, queue); n != 0 {
		t.Errorf("got %d ready events in %s, want none", n, queue)
	}
	t.Logf("%d accepted files, %d of them with catalog entries, %d dead letters", len(files), len(files)-len(uncataloged), len(dead)-len(before))
	if len(dead) < len(before)+givenUp {
		t.Errorf("got %d new dead letters, want at least the %d rejected events", len(dead)-len(before), givenUp)
	}
	eventually(t, time.Minute, func() string { // until RabbitMQ has returned the messages of broker.dead to the queue
		if n := broker.waiting(t, deadQueue); n != len(dead) {
			return fmt.Sprintf("got %d ready messages in %s, want %d", n, deadQueue, len(dead))
		}
		return ""
	})
	t.Log(strings.TrimSpace(run(t, filepath.Join(root, "deploy/job"), "redrive")))
	eventually(t, 2*time.Minute, func() string {
		if uncataloged = s.without(t, uncataloged); len(uncataloged) > 0 {
			return fmt.Sprintf("got %d files without catalog entries after the redrive, want none", len(uncataloged))
		}
		return ""
	})
	dead = broker.dead(t)
	for _, f := range files {
		s.download(t, f)
		if dead[f.id] {
			t.Errorf("file %s (%s): got a dead letter after the redrive, want none", f.name, f.id)
		}
	}
}

// without returns those files that have no catalog entry yet.
func (s *system) without(t *testing.T, files []*file) (left []*file) {
	t.Helper()
	for _, f := range files {
		if s.status(t, f) != "catalogued" {
			left = append(left, f)
		}
	}
	return left
}

// uploads uploads files in several goroutines until end is called.
type uploads struct {
	mu       sync.Mutex
	accepted []*file
	err      error // the first unexpected error
	done     chan struct{}
	workers  sync.WaitGroup
}

// startUploads starts four goroutines that upload small files.
func (s *system) startUploads(t *testing.T) *uploads {
	t.Helper()
	u := &uploads{done: make(chan struct{})}
	token := s.signedIn(t)
	for worker := range 4 {
		u.workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-u.done:
					return
				case <-time.After(200 * time.Millisecond):
				}
				f := newFile(fmt.Sprintf("rollout-%d-%d.bin", worker, i), 16<<10)
				ok, err := s.handIn(token, f)
				u.mu.Lock()
				if ok {
					u.accepted = append(u.accepted, f)
				}
				if err != nil && u.err == nil {
					u.err = err
				}
				u.mu.Unlock()
			}
		})
	}
	t.Cleanup(u.end)
	return u
}

// handIn sends one upload request. A 503 is not an error.
func (s *system) handIn(token string, f *file) (accepted bool, err error) {
	got, err := s.send(http.MethodPost, "upload", "/upload?name="+f.name, token,
		map[string]string{"Content-Type": "application/octet-stream"}, f.content)
	switch {
	case err != nil:
		return false, err
	case got.status == http.StatusServiceUnavailable:
		return false, nil
	case got.status != http.StatusAccepted:
		return false, fmt.Errorf("upload %s: got %s, want 202 or 503", f.name, got)
	}
	var stored struct{ ID string }
	if err := json.Unmarshal(got.body, &stored); err != nil {
		return false, err
	}
	f.id = stored.ID
	return true, nil
}

// count returns the number of accepted files.
func (u *uploads) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.accepted)
}

// wait waits until at least n files are accepted.
func (u *uploads) wait(t *testing.T, n int) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		if got := u.count(); got < n {
			return fmt.Sprintf("got %d accepted files, want %d", got, n)
		}
		return ""
	})
}

// end stops the goroutines and waits for them. It can be called again.
func (u *uploads) end() {
	u.mu.Lock()
	select {
	case <-u.done:
	default:
		close(u.done)
	}
	u.mu.Unlock()
	u.workers.Wait()
}

// stop stops the uploads and returns the accepted files. The test fails if an upload had an unexpected error.
func (u *uploads) stop(t *testing.T) []*file {
	t.Helper()
	u.end()
	if u.err != nil {
		t.Errorf("upload files: %v", u.err)
	}
	return u.accepted
}

// broker is a connection to the deployed RabbitMQ through a forwarded port.
type broker struct{ conn *amqp.Connection }

// dialBroker connects to the deployed RabbitMQ with the user of setup.
func dialBroker(t *testing.T) *broker {
	t.Helper()
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	get(t, &secret, "secret", "rabbitmq-setup")
	conn, err := amqp.Dial(fmt.Sprintf("amqp://%s:%s@%s", secret.Data["username"], secret.Data["password"],
		forward(t, namespace, "pod/rabbitmq-0", "5672")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &broker{conn}
}

// waiting returns the number of ready messages in a queue. It does not count messages that were delivered but not
// acknowledged.
func (b *broker) waiting(t *testing.T, queue string) int {
	t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return state.Messages
}

// giveUp rejects n events of the queue, as an adapter that stops can reject its undelivered events.
func (b *broker) giveUp(t *testing.T, n int) {
	t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	for range n {
		event, ok, err := ch.Get(queue, false)
		if err != nil || !ok {
			t.Fatalf("get an event: got %t, %v, want an event", ok, err)
		}
		if err := event.Reject(false); err != nil {
			t.Fatal(err)
		}
	}
}

// dead returns the IDs of the files whose events are dead letters. The dead letters stay in their queue.
func (b *broker) dead(t *testing.T) map[string]bool {
	t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close() // returns the unacknowledged messages to the queue
	ids := map[string]bool{}
	for {
		letter, ok, err := ch.Get(deadQueue, false)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return ids
		}
		ids[letter.MessageId] = true
	}
}
