//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestSweep proves that sweep works in the cluster and returns the number of dead letters. If sweep could not count the
// messages in the queues, it would respond with 503. The test sends its request from inside the cluster, because sweep
// has no public URL.
func TestSweep(t *testing.T) {
	broker := dialBroker(t)
	var swept struct {
		Failed      *int `json:"failed"`
		Waiting     *int `json:"waiting"`
		DeadLetters *int `json:"dead_letters"`
	}
	status, body := postInside(t, "sweep")
	if err := json.Unmarshal(body, &swept); status != http.StatusOK || err != nil {
		t.Fatalf("sweep: got status %d with %s, want 200 with counts", status, body)
	}
	if swept.Failed == nil || swept.Waiting == nil || swept.DeadLetters == nil {
		t.Fatalf("sweep: got %s, want failed, waiting and dead_letters", body)
	}
	if *swept.Failed != 0 {
		t.Errorf("sweep: got %d failed steps, want 0", *swept.Failed)
	}
	if want := broker.waiting(t, deadQueue); *swept.DeadLetters != want {
		t.Errorf("sweep: got %d dead letters, want %d", *swept.DeadLetters, want)
	}
}

// postInside sends an empty POST request to a function from a pod of the cluster, and returns the response.
func postInside(t *testing.T, function string) (status int, body []byte) {
	t.Helper()
	host := function + "." + namespace + clusterSuffix
	raw := kubectl(t, "exec", "mysql-0", "--container", "mysql", "--", "timeout", "100", "bash", "-c",
		`exec 3<>"/dev/tcp/$0/80" && printf 'POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$0" >&3 && cat <&3`, host)
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		t.Fatalf("POST http://%s/: read the response %q: %v", host, raw, err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, err = io.ReadAll(response.Body); err != nil {
		t.Fatalf("POST http://%s/: read the body of the response %q: %v", host, raw, err)
	}
	return response.StatusCode, body
}
