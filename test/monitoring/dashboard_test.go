package monitoring

import (
	"encoding/json"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// target is a query on the dashboard.
type target struct{ panel, expr, legend string }

// variables replaces the variables of Grafana. The interval is so long that a query reads the whole recording.
var variables = strings.NewReplacer("$__interval_ms", "7200000", "$__interval", "2h", "$__rate_interval", "1m",
	"$function", ".*")

// targets returns the queries on the dashboard.
func targets(t *testing.T) []target {
	t.Helper()
	text, err := os.ReadFile(folder + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	var found []target
	for _, panel := range dashboard.Panels {
		for _, query := range panel.Targets {
			found = append(found, target{panel.Title, variables.Replace(query.Expr), query.LegendFormat})
		}
	}
	return found
}

var legends = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)

// TestPanelsOfShortLivedPods checks the result of each query on the dashboard after an hour with short-lived pods. The
// rates are those of all events, each percentile is in the bucket of the observed value, and gauges have their last
// value.
func TestPanelsOfShortLivedPods(t *testing.T) {
	w := newWorld(t)
	w.usual(55 * time.Minute)
	w.pass(59 * time.Minute)
	counters := map[string]string{}
	for _, rule := range group(t, "recordings.yaml").Rules {
		counters[rule.Record], _ = counting(t, rule.Expr)
	}
	// The lowest and the highest value of a panel that does not show the rate of a counter.
	ranges := map[string][2]float64{
		"Duration, 95th percentile":                  {0, 0.1}, // the requests of the test take no time
		"Duration at the activator, 95th percentile": {1, 2.5},
		"Wait for a password hash":                   {0.25, 0.5},
		"Upload duration, 95th percentile":           {0.5, 1},
		"Delay of the catalog entry":                 {0.25, 0.5},
		"Dead letters":                               {0, 0},
		"Events in the queue":                        {3, 3},
		"Files without a catalog entry":              {1, 1},
		"Longest wait for a catalog entry":           {130, 130},
		"Error budget left":                          {-200, 1},
		"Burn rate, in an hour":                      {0, 1000},
		"Memory":                                     {1, math.MaxFloat64},
		"CPU":                                        {0, math.MaxFloat64},
		"Replicas":                                   {1, 2},
	}
	shown := map[string]bool{}
	for _, target := range targets(t) {
		got := w.query(target.expr)
		if len(got) == 0 {
			t.Errorf("%s: got no result for %s", target.panel, target.expr)
		}
		for _, s := range got {
			for _, label := range legends.FindAllStringSubmatch(target.legend, -1) {
				if !s.Metric.Has(label[1]) {
					t.Errorf("%s: the result %s has no label %s", target.panel, s.Metric, label[1])
				}
			}
		}
		var selector *parser.VectorSelector
		var by []string
		parsed, err := promQL.ParseExpr(target.expr)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.VectorSelector:
				selector = n
				shown[n.Name], shown[counters[n.Name]] = true, true
			case *parser.AggregateExpr:
				by = n.Grouping
			}
			return nil
		})
		if bounds, ok := ranges[target.panel]; ok {
			for _, s := range got {
				if math.IsNaN(s.F) && strings.HasPrefix(target.panel, "Upload duration") && s.Metric.Get("result") != "stored" {
					continue // there are no such uploads
				}
				if !(s.F >= bounds[0] && s.F <= bounds[1]) {
					t.Errorf("%s: got %v for %s, want at least %v and at most %v", target.panel, s.F, s.Metric, bounds[0], bounds[1])
				}
			}
			continue
		}
		seconds := 7200.0
		if target.panel == "Work of sweep, in an hour" {
			seconds = 1 // this panel shows numbers, not rates
		}
		want := w.counted(counters[selector.Name], selector.LabelMatchers, by)
		if len(got) != len(want) {
			t.Errorf("%s: got %v, want %v in %v s", target.panel, got, want, seconds)
		}
		for _, s := range got {
			if total := want[s.Metric.String()]; !near(s.F*seconds, total) {
				t.Errorf("%s: got %v for %s, want %v", target.panel, s.F*seconds, s.Metric, total)
			}
		}
	}
	for _, s := range w.query(`count by (__name__) (last_over_time({__name__=~"strongroom_.*",pod!=""}[2h]))`) {
		name := s.Metric.Get(labels.MetricName)
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue // the dashboard shows the buckets
		}
		if !shown[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	if names := slices.Collect(func(yield func(string) bool) {
		for panel := range ranges {
			if !slices.ContainsFunc(targets(t), func(target target) bool { return target.panel == panel }) && !yield(panel) {
				return
			}
		}
	}); len(names) > 0 {
		t.Errorf("the dashboard has no panels %q", names)
	}
}
