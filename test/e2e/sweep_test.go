//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// TestSweep proves that sweep works in the cluster and returns the number of dead letters. If sweep could not count the
// messages in the queues, it would respond with 503. A second sweep within a minute is refused. The test sends its
// requests from inside the cluster, because sweep has no public URL.
func TestSweep(t *testing.T) {
	broker := dialBroker(t)
	inside := newNeighbor(t)
	var swept struct {
		Failed      *int `json:"failed"`
		Waiting     *int `json:"waiting"`
		DeadLetters *int `json:"dead_letters"`
	}
	got := inside.sweep(t)
	if err := json.Unmarshal(got.body, &swept); got.status != http.StatusOK || err != nil {
		t.Fatalf("sweep: got %s, want 200 with counts", got)
	}
	if swept.Failed == nil || swept.Waiting == nil || swept.DeadLetters == nil {
		t.Fatalf("sweep: got %s, want failed, waiting and dead_letters", got)
	}
	if *swept.Failed != 0 {
		t.Errorf("sweep: got %d failed steps, want 0", *swept.Failed)
	}
	if want := broker.waiting(t, deadQueue); *swept.DeadLetters != want {
		t.Errorf("sweep: got %d dead letters, want %d", *swept.DeadLetters, want)
	}
	got = inside.post(t, "sweep", nil, "")
	if seconds, err := strconv.Atoi(got.header.Get("Retry-After")); got.problem() != "too-many-sweeps" || err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("second sweep: got %s with Retry-After %q, want the problem too-many-sweeps and 1 to 60 s", got, got.header.Get("Retry-After"))
	}
}

// sweep runs one sweep and returns the response. If another sweep began less than a minute ago, it waits.
func (n neighbor) sweep(t *testing.T) answer {
	t.Helper()
	got := n.post(t, "sweep", nil, "")
	if got.problem() == "too-many-sweeps" {
		seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
		if err != nil || seconds > 60 {
			t.Fatalf("sweep: got %s with Retry-After %q, want at most 60 s", got, got.header.Get("Retry-After"))
		}
		time.Sleep(time.Duration(seconds) * time.Second)
		got = n.post(t, "sweep", nil, "")
	}
	return got
}
