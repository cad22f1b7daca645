package monitoring

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// counting returns the counter in the expression of a recording rule, and the labels by which the rule adds it up. The
// counter is "" if the rule reads other rules.
func counting(t *testing.T, expr string) (counter string, by []string) {
	t.Helper()
	parsed, err := promQL.ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			by = n.Grouping
		case *parser.VectorSelector:
			if strings.HasPrefix(n.Name, "strongroom_") {
				counter = n.Name
			}
		}
		return nil
	})
	return counter, by
}

// near reports whether two numbers are equal except for rounding errors.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(1, math.Abs(b)) }

// TestCountsOfShortLivedPods checks that the recording rules count all events of pods that are deleted soon after their
// first request, and of pods whose scrapes fail.
func TestCountsOfShortLivedPods(t *testing.T) {
	w := newWorld(t)
	w.usual(time.Hour)
	w.pass(time.Hour + 5*time.Minute)
	checked := 0
	for _, rule := range group(t, "recordings.yaml").Rules {
		counter, by := counting(t, rule.Expr)
		if counter == "" {
			continue
		}
		checked++
		want := w.counted(counter, nil, by)
		got := map[string]float64{}
		for _, s := range w.query("sum_over_time(" + rule.Record + "[2h])") {
			got[s.Metric.String()] = s.F
		}
		if !maps.EqualFunc(got, want, near) {
			t.Errorf("%s:\ngot  %v\nwant %v", rule.Record, got, want)
		}
	}
	if checked != 11 {
		t.Errorf("checked %d rules, want 11", checked)
	}
	// w.counted reads the same metrics as Prometheus. Therefore, compare two counts with the number of pods.
	for query, want := range map[string]float64{
		`sum_over_time(strongroom:swept:increase1m{what="failed"}[2h])`:    2 * 12,
		`sum_over_time(strongroom:logins:increase1m{result="locked"}[2h])`: 8,
	} {
		if got := w.query(query); len(got) != 1 || got[0].F != want {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
}

// TestRestart checks that the recording rules count the events of a container that restarts. They can miss the events
// of the minute before the restart.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	p := w.begin("record", w.now.Add(time.Hour))
	w.every(10*time.Second, 20*time.Minute, func() { p.do(recorded) })
	w.after(10*time.Minute+5*time.Second, func() { w.restart(p) })
	w.pass(25 * time.Minute)
	const want, missed = 120, 6
	got := w.query(`sum(sum_over_time(strongroom:records:increase1m[1h]))`)
	if len(got) != 1 || got[0].F > want || got[0].F < want-missed {
		t.Errorf("got %v events, want at least %d and at most %d", got, want-missed, want)
	}
}

// external has the metrics of other exporters that the rules use.
var external = []string{
	"certmanager_certificate_expiration_timestamp_seconds", "http_server_request_duration_seconds_bucket",
	"kube_cronjob_created", "kube_cronjob_status_last_successful_time",
	"kube_job_failed", "kube_pod_container_status_waiting_reason", "kubelet_volume_stats_capacity_bytes",
	"kubelet_volume_stats_used_bytes", "rabbitmq_alarms_free_disk_space_watermark", "rabbitmq_alarms_memory_used_watermark",
	"rabbitmq_detailed_queue_consumers", "rabbitmq_detailed_queue_messages",
}

// selected returns the names of the metrics that an expression reads, with the names of the labels that it uses.
func selected(t *testing.T, expr string) map[string][]string {
	t.Helper()
	parsed, err := promQL.ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	found := map[string][]string{}
	parser.Inspect(parsed, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		for _, m := range selector.LabelMatchers {
			if m.Name != labels.MetricName {
				found[selector.Name] = append(found[selector.Name], m.Name)
			}
		}
		for _, above := range path {
			if aggregate, ok := above.(*parser.AggregateExpr); ok {
				found[selector.Name] = append(found[selector.Name], aggregate.Grouping...)
			}
		}
		found[selector.Name] = append(found[selector.Name], "")
		return nil
	})
	return found
}

// known returns the metrics that exist, with their labels: those of the functions and those of the recording rules.
func known(t *testing.T) map[string][]string {
	t.Helper()
	w := newWorld(t)
	w.usual(30 * time.Minute)
	w.pass(31 * time.Minute)
	found := map[string][]string{}
	for _, s := range w.query(`last_over_time({__name__=~"strongroom_.*|process_.*",pod!=""}[1h])`) {
		s.Metric.Range(func(l labels.Label) {
			found[s.Metric.Get("__name__")] = append(found[s.Metric.Get("__name__")], l.Name)
		})
	}
	for _, rule := range group(t, "recordings.yaml").Rules {
		_, by := counting(t, rule.Expr)
		found[rule.Record] = append(append(found[rule.Record], by...), slices.Collect(maps.Keys(rule.Labels))...)
	}
	for name := range found {
		if strings.HasPrefix(name, "strongroom:slo_") {
			found[name] = []string{"function", "slo"}
		}
	}
	return found
}

// TestNames checks that the rules and the dashboard read only metrics and labels that exist.
func TestNames(t *testing.T) {
	all := targets(t)
	for _, name := range []string{"recordings.yaml", "alerts.yaml"} {
		for _, rule := range group(t, name).Rules {
			all = append(all, target{panel: rule.Record + rule.Alert, expr: rule.Expr})
		}
	}
	there := known(t)
	for _, target := range all {
		where := target.panel
		for name, used := range selected(t, target.expr) {
			if slices.Contains(external, name) {
				continue
			}
			labels, ok := there[name]
			if !ok {
				t.Errorf("%s: the metric %s does not exist", where, name)
			}
			for _, label := range used {
				if label != "" && !slices.Contains(labels, label) {
					t.Errorf("%s: the metric %s has no label %s", where, name, label)
				}
			}
		}
	}
}
