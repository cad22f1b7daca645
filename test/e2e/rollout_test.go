//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// queue and deadQueue are RabbitMQ's; see shared/events.
	queue     = "strongroom.files"
	deadQueue = "strongroom.files.dead"
	// sourceSelector finds the deployment of the source's adapter, whose name is made up.
	sourceSelector = "eventing.knative.dev/SourceName=strongroom-files"
)

// TestNothingIsLostWithTheSource restarts the adapter of the RabbitMQ source while at least 200 files are handed in, once
// with all well, and once with MongoDB away for 30 s and events on their way. When the adapter stops, it may give up what it
// has in flight: every accepted file is then in the catalogue, or its event is in one of the queues, and `setup redrive` brings
// the rest into the catalogue. Whether it gives up anything is a race inside of it, so the test gives up a few events as well.
func TestNothingIsLostWithTheSource(t *testing.T) {
	s := open(t)
	broker := dialBroker(t)
	before := broker.dead(t) // of other tests: theirs to explain
	up := s.startUploads(t)
	adapter := strings.TrimSpace(kubectl(t, "get", "deployment", "--selector", sourceSelector, "-o", "name"))
	if strings.Count(adapter, "deployment.apps/") != 1 {
		t.Fatalf("the deployments of the source are %q, want one", adapter)
	}
	settled := func() { kubectl(t, "rollout", "status", adapter, "--timeout=100s") }
	t.Cleanup(func() { kubectl(t, "scale", adapter, "--replicas=1") })

	up.wait(t, 40)
	kubectl(t, "rollout", "restart", adapter)
	settled()

	// Events gather while there is no adapter. It is given them when MongoDB is away, and has to stop with what it could not
	// deliver.
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
		if n := broker.waiting(t, queue); n > 20 { // some are in its hands
			return fmt.Sprintf("%d events wait in %s", n, queue)
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
	uncatalogued := files
	eventually(t, 6*time.Minute, func() string { // as long as the source's retries may take
		dead = broker.dead(t)
		uncatalogued = s.without(t, uncatalogued)
		for _, f := range uncatalogued {
			if !dead[f.id] {
				return fmt.Sprintf("%s (%s) is neither in the catalogue nor dead", f.name, f.id)
			}
		}
		return ""
	})
	if n := broker.waiting(t, queue); n != 0 {
		t.Errorf("%d events still wait in %s", n, queue)
	}
	t.Logf("%d files accepted, %d of them catalogued, %d dead letters", len(files), len(files)-len(uncatalogued), len(dead)-len(before))
	if len(dead) < len(before)+givenUp {
		t.Errorf("%d dead letters, want at least the %d that were given up", len(dead)-len(before), givenUp)
	}
	eventually(t, time.Minute, func() string { // the look at the letters has given them back
		if n := broker.waiting(t, deadQueue); n != len(dead) {
			return fmt.Sprintf("%d letters wait in %s, want %d", n, deadQueue, len(dead))
		}
		return ""
	})
	t.Log(strings.TrimSpace(run(t, "../../config/platform/setup", "redrive")))
	eventually(t, 2*time.Minute, func() string {
		if uncatalogued = s.without(t, uncatalogued); len(uncatalogued) > 0 {
			return fmt.Sprintf("%d files are not in the catalogue after the redrive", len(uncatalogued))
		}
		return ""
	})
	dead = broker.dead(t)
	for _, f := range files {
		s.download(t, f)
		if dead[f.id] {
			t.Errorf("%s (%s) is dead again", f.name, f.id)
		}
	}
}

// without returns those of files that are not in the catalogue yet.
func (s *system) without(t *testing.T, files []*file) (left []*file) {
	t.Helper()
	for _, f := range files {
		if s.status(t, f) != "catalogued" {
			left = append(left, f)
		}
	}
	return left
}

// uploads hands in files, one after another in each of a few goroutines, until it is stopped.
type uploads struct {
	mu       sync.Mutex
	accepted []*file
	err      error
	done     chan struct{}
	workers  sync.WaitGroup
}

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

// handIn tries once to hand in a file. A 503 is no error.
func (s *system) handIn(token string, f *file) (accepted bool, err error) {
	got, err := s.send(http.MethodPost, "upload", "/upload?name="+f.name, token,
		map[string]string{"Content-Type": "application/octet-stream"}, f.content)
	switch {
	case err != nil:
		return false, err
	case got.status == http.StatusServiceUnavailable:
		return false, nil
	case got.status != http.StatusAccepted:
		return false, fmt.Errorf("upload of %s: %s", f.name, got)
	}
	var stored struct{ ID string }
	if err := json.Unmarshal(got.body, &stored); err != nil {
		return false, err
	}
	f.id = stored.ID
	return true, nil
}

func (u *uploads) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.accepted)
}

// wait waits until n files were accepted.
func (u *uploads) wait(t *testing.T, n int) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		if got := u.count(); got < n {
			return fmt.Sprintf("%d files were accepted, want %d", got, n)
		}
		return ""
	})
}

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

// stop ends the uploads and returns the files that were accepted.
func (u *uploads) stop(t *testing.T) []*file {
	t.Helper()
	u.end()
	if u.err != nil {
		t.Error(u.err)
	}
	return u.accepted
}

// broker looks into the deployed RabbitMQ, through a forwarded port.
type broker struct{ conn *amqp.Connection }

// forwarding is what kubectl says when the port is open.
var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:([0-9]+)`)

func dialBroker(t *testing.T) *broker {
	t.Helper()
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	get(t, &secret, "secret", "rabbitmq-setup")
	command := exec.Command("kubectl", "--namespace", namespace, "port-forward", "--address", "127.0.0.1", "pod/rabbitmq-0", ":5672")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	found := forwarding.FindStringSubmatch(line)
	if err != nil || found == nil {
		t.Fatalf("kubectl port-forward says %q (%v)", line, err)
	}
	conn, err := amqp.Dial(fmt.Sprintf("amqp://%s:%s@127.0.0.1:%s", secret.Data["username"], secret.Data["password"], found[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &broker{conn}
}

// waiting returns how many events in a queue nobody has been given yet.
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

// giveUp does to n events that wait what an adapter that stops does to those it has in hand: it rejects them.
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
			t.Fatalf("get an event: %v; there is one: %t", err, ok)
		}
		if err := event.Reject(false); err != nil {
			t.Fatal(err)
		}
	}
}

// dead returns the ids of the files whose events are dead letters, and leaves these where they are.
func (b *broker) dead(t *testing.T) map[string]bool {
	t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close() // which gives them back
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
