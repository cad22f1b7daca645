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

// metric is one as the registry has it.
type metric struct {
	labels []string // sorted, without function, which all have
	kind   string   // counter, gauge or histogram
}

var descriptions = regexp.MustCompile(`^Desc\{fqName: "([a-z_]+)", .*constLabels: \{function="[a-z]+"\}, variableLabels: \{([a-z,]*)\}`)

// registered returns all metrics of a function, by name, from its registry itself: also those that nothing was told of.
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
			continue // of the Go runtime, whose names these documents leave to it
		}
		m := metric{kind: kinds[parts[1]]}
		if parts[2] != "" {
			m.labels = strings.Split(parts[2], ",")
			slices.Sort(m.labels)
		}
		if strings.HasPrefix(parts[1], "strongroom_") {
			if m.kind == "" {
				t.Errorf("tellAll does not tell of %s", parts[1])
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

// The table of the operator's page has each metric there is, with its labels and its kind, and no other; and what else
// the page says of metrics is of one of them.
func TestTableOfMetrics(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	there := registered(t)
	for _, name := range names.FindAllString(string(text), -1) {
		if _, ok := there[name]; !ok {
			t.Errorf("the page speaks of %s, which there is not", name)
		}
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `strongroom_") {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			t.Fatalf("not three columns: %s", line)
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
				t.Errorf("%s is listed with the labels %v, it has %v", name, labels, m.labels)
			}
			for _, kind := range []string{"gauge", "histogram"} {
				if is := there[name].kind == kind; is != strings.Contains(cells[3], kind) {
					t.Errorf("%s: is it a %s? It is %t, the table says otherwise", name, kind, is)
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

// histogramPart takes off a name what Prometheus adds to that of a histogram.
func histogramPart(name string) (base, part string) {
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, part); ok {
			return base, part
		}
	}
	return name, ""
}

// texts returns all strings in a JSON document under the given keys.
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

// The dashboard shows each metric there is, asks for no other, and by no label that it does not have.
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
		// What Prometheus adds when it scrapes, and the Go runtime's metrics, have these alone.
		expr, labels := target["expr"], []string{"function", "job", "instance"}
		used := selectors.FindAllStringSubmatch(expr, -1)
		if len(used) != 1 {
			t.Errorf("%q asks for %d metrics; this test can tell the labels of one", expr, len(used))
			continue
		}
		name := used[0][1]
		if base, part := histogramPart(name); there[base].kind == "histogram" {
			if name = base; part == "_bucket" {
				labels = append(labels, "le")
			} else if part == "" {
				t.Errorf("%q: a histogram has _bucket, _sum and _count", expr)
			}
		}
		m, ok := there[name]
		if !ok && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "go_") {
			t.Errorf("%q: there is no metric %s", expr, name)
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
			t.Errorf("%s is not shown", name)
		}
	}
	// The variables at the top of the page.
	for _, name := range names.FindAllString(string(text), -1) {
		if base, _ := histogramPart(name); there[base].kind == "" {
			t.Errorf("there is no metric %s", name)
		}
	}
}
