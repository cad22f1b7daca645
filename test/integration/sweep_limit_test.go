package integration

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// TestSweepLimit proves that sweep refuses a sweep if another sweep began less than SWEEP_INTERVAL ago, whichever process
// received the request. Of several concurrent requests, exactly one sweeps. A failed sweep counts.
func TestSweepLimit(t *testing.T) {
	uri := servertest.MongoDB(t).NewDatabase(t)
	start := func(sink, interval string) string {
		return runFunction(t, "sweep", "MONGODB_URI="+uri, "EVENTS_URL="+sink, "SWEEP_INTERVAL="+interval)
	}
	working, failing := startSink(t), "amqp://guest:guest@127.0.0.1:1"
	urls := []string{start(working, "1m"), start(working, "1m")}
	statuses := make([]int, 16)
	var group sync.WaitGroup
	for i := range statuses {
		group.Go(func() { statuses[i], _ = postSweep(t, urls[i%len(urls)]) })
	}
	group.Wait()
	slices.Sort(statuses)
	if statuses[0] != http.StatusOK || slices.ContainsFunc(statuses[1:], func(status int) bool { return status != http.StatusTooManyRequests }) {
		t.Errorf("concurrent sweeps: got the statuses %v, want 200 once and otherwise 429", statuses)
	}
	response, err := http.Post(start(working, "1m"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || response.StatusCode != http.StatusTooManyRequests || seconds < 1 || seconds > 60 {
		t.Errorf("sweep after a restart: got %s with Retry-After %q, want 429 with 1 to 60 s", response.Status, response.Header.Get("Retry-After"))
	}

	// The next sweep is possible after the interval, and only once, even if it fails.
	const interval = 3 * time.Second
	broken := start(failing, interval.String())
	time.Sleep(interval)
	if status, _ := postSweep(t, broken); status != http.StatusServiceUnavailable {
		t.Errorf("sweep without a broker: got status %d, want 503", status)
	}
	if status, _ := postSweep(t, urls[0]); status != http.StatusTooManyRequests {
		t.Errorf("sweep after a failed sweep: got status %d, want 429", status)
	}
	time.Sleep(interval)
	if status, _ := postSweep(t, start(working, interval.String())); status != http.StatusOK {
		t.Errorf("sweep after the interval: got status %d, want 200", status)
	}
}
