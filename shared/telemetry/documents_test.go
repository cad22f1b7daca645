package telemetry

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// metric is a metric as the registry describes it.
type metric struct {
	labels []string // sorted; without the label "function", which all metrics have
	kind   string   // counter, gauge or histogram
}

var descriptions = regexp.MustCompile(`^Desc\{fqName: "([a-z_]+)", .*constLabels: \{function="[a-z]+"\}, variableLabels: \{([a-z,]*)\}`)

// registered returns the metrics of Strongroom in the registry of a function, by name. The registry also describes metrics
// without a value.
func registered(t *testing.T) map[string]metric {
	t.Helper()
	told := newTelemetry(t, Settings{Function: "upload", Metrics: true})
	tellAll(told.In(t.Context()))
	families, err := told.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, family := range families {
		kinds[family.GetName()] = strings.ToLower(dto.MetricType_name[int32(family.GetType())])
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		told.metrics.registry.Describe(descs)
	}()
	found := map[string]metric{}
	for desc := range descs {
		parts := descriptions.FindStringSubmatch(desc.String())
		if parts == nil {
			continue // a metric of the Go runtime, which the documents do not describe
		}
		m := metric{kind: kinds[parts[1]]}
		if parts[2] != "" {
			m.labels = strings.Split(parts[2], ",")
			slices.Sort(m.labels)
		}
		if strings.HasPrefix(parts[1], "strongroom_") {
			if m.kind == "" {
				t.Errorf("tellAll does not record %s", parts[1])
			}
			found[parts[1]] = m
		}
	}
	if len(found) == 0 {
		t.Fatal("the registry describes no metric")
	}
	return found
}

var (
	names  = regexp.MustCompile(`\bstrongroom_[a-z_]+`)
	quoted = regexp.MustCompile("`([^`]+)`")
)

// TestTableOfMetrics checks that a table in docs/monitoring.md lists every metric, with its labels and its kind, and that
// every metric that the documents mention exists.
func TestTableOfMetrics(t *testing.T) {
	there := registered(t)
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	runbooks, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, runbooks...) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names.FindAllString(string(text), -1) {
			if _, ok := there[name]; !ok {
				t.Errorf("%s mentions %s, which does not exist", page, name)
			}
		}
	}
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `strongroom_") {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			t.Fatalf("want three columns: %s", line)
		}
		var labels []string
		for _, label := range quoted.FindAllStringSubmatch(cells[2], -1) {
			labels = append(labels, label[1])
		}
		slices.Sort(labels)
		for _, name := range names.FindAllString(cells[1], -1) {
			if listed[name] {
				t.Errorf("%s is listed twice", name)
			}
			listed[name] = true
			if m := there[name]; !slices.Equal(labels, m.labels) {
				t.Errorf("%s: got labels %v in the table, want %v", name, labels, m.labels)
			}
			for _, kind := range []string{"gauge", "histogram"} {
				if is := there[name].kind == kind; is != strings.Contains(cells[3], kind) {
					t.Errorf("%s: got the word %q in the table: %t, want %t", name, kind, !is, is)
				}
			}
		}
	}
	for name := range there {
		if !listed[name] {
			t.Errorf("%s is not listed", name)
		}
	}
}
