//go:build e2e

package e2e

import (
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// strongroomMetrics matches the names of the metrics of the functions.
var strongroomMetrics = regexp.MustCompile(`\bstrongroom_[a-z_]+`)

// ofSweep has the metrics that only sweep has. sweep runs every five minutes, so it usually has no pod.
var ofSweep = []string{"strongroom_swept_total", "strongroom_queued_events", "strongroom_dead_letters",
	"strongroom_uncataloged_seconds"}

// TestMetricsOfRules checks that the pods of the functions have each metric that the rules in deploy/monitoring read,
// except the metrics of sweep. test/monitoring tests the rules. Prometheus is not necessary for this test.
func TestMetricsOfRules(t *testing.T) {
	s := open(t)
	f := newFile("metrics.bin", 1<<10)
	s.upload(t, f)
	s.catalogued(t, f, 2*time.Minute)
	s.call(t, http.MethodGet, "validate", "/validate", s.signedIn(t), nil, nil)

	var running struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
		}
	}
	get(t, &running, "pods", "--selector", "app.kubernetes.io/component=function",
		"--field-selector", "status.phase=Running")
	client := http.Client{Timeout: 10 * time.Second}
	found := map[string]bool{}
	for _, pod := range running.Items {
		if pod.Metadata.DeletionTimestamp != "" {
			continue // the pod might end before the request
		}
		response, err := client.Get("http://" + forward(t, namespace, "pod/"+pod.Metadata.Name, "9464") + "/metrics")
		if err != nil {
			t.Fatalf("get the metrics of %s: %v", pod.Metadata.Name, err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatalf("read the metrics of %s: %v", pod.Metadata.Name, err)
		}
		for _, name := range strongroomMetrics.FindAllString(string(text), -1) {
			found[name] = true
		}
	}
	wanted := 0
	for _, name := range []string{"recordings.yaml", "alerts.yaml"} {
		rules, err := os.ReadFile(filepath.Join(root, "deploy/monitoring", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range strongroomMetrics.FindAllString(string(rules), -1) {
			if wanted++; !found[metric] && !slices.Contains(ofSweep, metric) {
				t.Errorf("%s: no pod has the metric %s", name, metric)
			}
		}
	}
	if wanted < 30 {
		t.Errorf("the rules read %d metrics, want at least 30", wanted)
	}
	if t.Failed() {
		t.Logf("the pods have the metrics %s", strings.Join(slices.Sorted(maps.Keys(found)), " "))
	}
}
