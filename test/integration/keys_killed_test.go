package integration

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestKeyedUploadKilled proves that an idempotency key results in exactly one file if the upload function is killed
// with SIGKILL at any step of the first upload. The client sends the file again with the same key to another replica,
// either after or during the first upload. After one sweep, each key has only the file of the accepted response, and
// only one event.
func TestKeyedUploadKilled(t *testing.T) {
	broker := servertest.RabbitMQ(t).NewVhost(t)
	servertest.ResetTopology(t, broker)
	u := startUpload(t, 1, broker.URL)
	moments := []moment{
		{"insert fs.chunks", true, true},
		{"insert fs.files", false, true}, {"insert fs.files", true, true},
		{"insert uploads.claims", false, false}, {"insert uploads.claims", false, true}, {"insert uploads.claims", true, true},
		{"message", false, false}, {"message", false, true}, {"ack", true, true},
	}
	accepted := map[string]bool{}
	for i := range 2 * len(moments) {
		m, meanwhile := moments[i/2], i%2 == 1
		key := fmt.Sprintf("%v, concurrent retry %t", m, meanwhile)
		dying, ended := u.startDying(t, broker.URL, m)
		var retry sync.WaitGroup
		retried := func() {
			status, id := u.post(t, 0, key, fmt.Sprintf("%q", key))
			if status != http.StatusAccepted || accepted[id] {
				t.Errorf("%s: got status %d and ID %q, want 202 and a new ID", key, status, id)
			}
			accepted[id] = true
		}
		if meanwhile {
			retry.Go(retried)
		}
		response, err := httpClient.Do(u.request(t, dying, key, fmt.Sprintf("%q", key)))
		if err == nil {
			_ = response.Body.Close()
		}
		retry.Wait()
		if !meanwhile {
			select {
			case <-ended:
			case <-time.After(servertest.Recovery):
				t.Fatalf("%s: the function was not killed within %v", key, servertest.Recovery)
			}
			retried()
		}
	}

	time.Sleep(killGrace + 200*time.Millisecond)
	sweep := runFunction(t, "sweep", "MONGODB_URI="+u.uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE="+killGrace.String(), "ORPHAN_GRACE="+killGrace.String())
	if status, counts := postSweep(t, sweep); status != http.StatusOK {
		t.Fatalf("sweep: got %d %+v, want 200", status, counts)
	}
	files, told := digests(t, u.db), eventIDs(t, broker)
	if len(accepted) != 2*len(moments) || len(files) != len(accepted) || len(told) != len(accepted) {
		t.Errorf("got %d accepted files, %d stored files and %d events, want %d each", len(accepted), len(files), len(told), 2*len(moments))
	}
	for id := range accepted {
		if files[id] == "" || !told[id] {
			t.Errorf("accepted file %s: got stored %t, event %t, want both", id, files[id] != "", told[id])
		}
	}
	// No record function runs, so the notes of the accepted files stay open.
	if n := servertest.CountDocuments(t, u.db.Collection("uploads"), bson.D{}); n != int64(len(accepted)) {
		t.Errorf("got %d notes after the sweep, want those of the %d accepted files", n, len(accepted))
	}
}

// startDying starts a replica of the upload function that is killed at the moment m. It returns the URL of the replica
// and a channel that is closed when the process has ended.
func (u *uploader) startDying(t *testing.T, eventsURL string, m moment) (url string, ended <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(build(t, "upload"))
	gone := make(chan struct{})
	var once sync.Once
	watch := func(now moment) (cut bool) {
		if now == m {
			once.Do(func() {
				_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
				<-gone
				cut = true
			})
		}
		return cut
	}
	mongoWire := newWire(t, host(t, u.uri), mongoMessages, watch)
	brokerWire := newWire(t, host(t, eventsURL), amqpFrames, watch)
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	settings := append(u.settings[:len(u.settings):len(u.settings)], "HOST=127.0.0.1", "PORT="+port,
		"MONGODB_URI="+mongoWire.through(t, u.uri), "EVENTS_URL="+brokerWire.through(t, eventsURL))
	if cmd.Env, err = environment(cmd.Path, settings); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // returns an error, because the process is killed
		close(gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Logf("log of the upload function that is killed at %v:\n%s", m, log.String())
		}
	})
	servertest.Eventually(t, servertest.Recovery, "upload accepts requests", func() error {
		response, err := http.Get("http://" + address + "/healthz")
		return errors.Join(err, closed(response))
	})
	return "http://" + address, gone
}

// closed closes the body of a response. The response can be nil.
func closed(response *http.Response) error {
	if response == nil {
		return nil
	}
	return response.Body.Close()
}
