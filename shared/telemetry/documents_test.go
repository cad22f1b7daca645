package telemetry

import (
	"encoding/json"
	"os"
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

// A table in docs/operations.md lists every metric, with its labels and its kind. Every metric that docs/operations.md
// mentions exists.
func TestTableOfMetrics(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	there := registered(t)
	for _, name := range names.FindAllString(string(text), -1) {
		if _, ok := there[name]; !ok {
			t.Errorf("docs/operations.md mentions %s, which does not exist", name)
		}
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

var (
	selectors = regexp.MustCompile(`\b([a-z][a-z_]+)\{([^}]*)\}`)
	matchers  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	grouped   = regexp.MustCompile(`\b(?:by|without) ?\(([^)]*)\)`)
	legends   = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
)

// histogramPart splits name into the name of a histogram and the suffix that Prometheus adds to it. part is "" if name has
// no such suffix.
func histogramPart(name string) (base, part string) {
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, part); ok {
			return base, part
		}
	}
	return name, ""
}

// texts returns all string members of a JSON document whose names are in keys. Each map holds the members of one JSON object.
func texts(document any, keys ...string) (found []map[string]string) {
	switch v := document.(type) {
	case map[string]any:
		here := map[string]string{}
		for key, value := range v {
			if text, ok := value.(string); ok && slices.Contains(keys, key) {
				here[key] = text
				continue
			}
			found = append(found, texts(value, keys...)...)
		}
		if len(here) > 0 {
			found = append(found, here)
		}
	case []any:
		for _, value := range v {
			found = append(found, texts(value, keys...)...)
		}
	}
	return found
}

// The Grafana dashboard shows every metric, and uses only metrics and labels that exist.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	there, shown := registered(t), map[string]bool{}
	for _, target := range texts(document, "expr", "legendFormat") {
		// All metrics have these three labels. Metrics of the Go runtime, and metrics that Prometheus adds, have no other
		// labels.
		expr, labels := target["expr"], []string{"function", "job", "instance"}
		used := selectors.FindAllStringSubmatch(expr, -1)
		if len(used) != 1 {
			t.Errorf("%q uses %d metrics, want 1, because this test can check the labels of only one metric", expr, len(used))
			continue
		}
		name := used[0][1]
		if base, part := histogramPart(name); there[base].kind == "histogram" {
			if name = base; part == "_bucket" {
				labels = append(labels, "le")
			} else if part == "" {
				t.Errorf("%q: want the suffix _bucket, _sum or _count for a histogram", expr)
			}
		}
		m, ok := there[name]
		if !ok && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "go_") {
			t.Errorf("%q: metric %s does not exist", expr, name)
		}
		shown[name], labels = true, append(labels, m.labels...)
		var asked []string
		for _, label := range matchers.FindAllStringSubmatch(used[0][2], -1) {
			asked = append(asked, label[1])
		}
		for _, list := range grouped.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(list[1], ",") {
				asked = append(asked, strings.TrimSpace(label))
			}
		}
		for _, label := range legends.FindAllStringSubmatch(target["legendFormat"], -1) {
			asked = append(asked, label[1])
		}
		for _, label := range asked {
			if !slices.Contains(labels, label) {
				t.Errorf("%q, %q: %s has no label %s, only %v", expr, target["legendFormat"], name, label, labels)
			}
		}
	}
	for name := range there {
		if !shown[name] {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
	// The variables of the dashboard also name metrics.
	for _, name := range names.FindAllString(string(text), -1) {
		if base, _ := histogramPart(name); there[base].kind == "" {
			t.Errorf("metric %s does not exist", name)
		}
	}
}
