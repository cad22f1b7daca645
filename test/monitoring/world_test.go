// Package monitoring tests the rules and the dashboard in deploy/monitoring.
package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	folder = "../../deploy/monitoring/"
	// scrapeInterval is the interval in deploy/monitoring/podmonitors.yaml.
	scrapeInterval = 15 * time.Second
	// life is how long a pod of an idle function lives after its last request: Knative's stable window of 60 s and its
	// grace period of 30 s.
	life = 90 * time.Second
)

var promQL = parser.NewParser(parser.Options{})

// document decodes a file in deploy/monitoring, which must have no unknown fields.
func document(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(folder + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// group returns the only rule group of a file in deploy/monitoring, after Prometheus has validated it.
func group(t *testing.T, name string) rulefmt.RuleGroup {
	t.Helper()
	var object v1.PrometheusRule
	document(t, name, &object)
	text, err := yaml.Marshal(object.Spec)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatalf("%s: %v", name, errors.Join(errs...))
	}
	if len(groups.Groups) != 1 || groups.Groups[0].Interval != model.Duration(time.Minute) {
		t.Fatalf("%s: want one group with the interval 1m", name)
	}
	return groups.Groups[0]
}

// pod is a pod of a function. Its metrics are those of the package that the functions use.
type pod struct {
	name, function string
	told           []*telemetry.Telemetry // one for each start of the container
	ends           time.Time
	phase          time.Duration // of the first scrape
	silent         bool          // whether scrapes fail
	scraped        map[string]labels.Labels
}

// do lets the function of the pod do some work.
func (p *pod) do(work func(ctx context.Context)) {
	work(p.told[len(p.told)-1].In(context.Background()))
}

// metrics returns the response to GET /metrics of the current container, or of an earlier container.
func (p *pod) metrics(container int) string {
	w := httptest.NewRecorder()
	p.told[container].Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// world simulates a cluster with a Prometheus server.
type world struct {
	t          *testing.T
	now, start time.Time
	memory     *memory
	engine     *promql.Engine
	rules      []*rule
	pods       []*pod
	later      map[time.Time][]func()
	// outside has the series of other exporters, such as kube-state-metrics, in the text format.
	outside map[string]float64
	fired   map[string]bool
}

// rule is a recording rule or an alert.
type rule struct {
	rulefmt.Rule
	recorded map[string]labels.Labels // the series of the last evaluation
	active   map[string]time.Time     // when each alert began
}

func newWorld(t *testing.T) *world {
	start := time.Unix(1_700_000_000, 0).UTC().Truncate(time.Hour)
	w := &world{t: t, now: start, start: start, memory: newMemory(), later: map[time.Time][]func(){},
		outside: map[string]float64{}, fired: map[string]bool{},
		engine: promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute,
			LookbackDelta: 5 * time.Minute, Parser: promQL})}
	for _, name := range []string{"recordings.yaml", "alerts.yaml"} {
		for _, r := range group(t, name).Rules {
			w.rules = append(w.rules, &rule{Rule: r, active: map[string]time.Time{}})
		}
	}
	return w
}

// evaluate evaluates all rules, as Prometheus does: it stores the results of the recording rules, marks series that
// have ended as stale, and lets an alert fire if its condition has been true for the time in the field "for".
func (w *world) evaluate() {
	w.t.Helper()
	for _, r := range w.rules {
		recorded, active := map[string]labels.Labels{}, map[string]time.Time{}
		for _, s := range w.query(r.Expr) {
			builder := labels.NewBuilder(s.Metric).Del(labels.MetricName)
			for name, v := range r.Labels {
				builder.Set(name, v)
			}
			if r.Alert != "" {
				key, since := builder.Labels().String(), w.now
				if earlier, ok := r.active[key]; ok {
					since = earlier
				}
				if active[key] = since; w.now.Sub(since) >= time.Duration(r.For) {
					w.fired[r.Alert] = true
				}
				continue
			}
			series := builder.Set(labels.MetricName, r.Record).Labels()
			if _, ok := recorded[series.String()]; ok {
				w.t.Fatalf("%s: two results have the labels %s", r.Record, series)
			}
			recorded[series.String()] = series
			w.memory.add(series, w.now.UnixMilli(), s.F)
		}
		w.stale(r.recorded, recorded)
		r.recorded, r.active = recorded, active
	}
}

// stale marks the series that are in before, but not in after, as stale.
func (w *world) stale(before, after map[string]labels.Labels) {
	for key, series := range before {
		if _, ok := after[key]; !ok {
			w.memory.add(series, w.now.UnixMilli(), math.Float64frombits(value.StaleNaN))
		}
	}
}

// begin starts a pod that lives until ends.
func (w *world) begin(function string, ends time.Time) *pod {
	w.t.Helper()
	p := &pod{name: fmt.Sprintf("%s-0000%d-deployment-%d", function, 1+len(w.pods)%3, len(w.pods)), function: function,
		ends: ends, phase: time.Duration(len(w.pods)*4%15) * time.Second, scraped: map[string]labels.Labels{}}
	w.pods = append(w.pods, p)
	w.restart(p)
	return p
}

// restart starts a new container of a pod. Its metrics start at 0.
func (w *world) restart(p *pod) {
	told, err := telemetry.New(w.t.Context(), telemetry.Settings{Function: p.function, Metrics: true})
	if err != nil {
		w.t.Fatal(err)
	}
	p.told = append(p.told, told)
}

// after runs f when the given time has passed.
func (w *world) after(d time.Duration, f func()) {
	at := w.now.Add(d)
	w.later[at] = append(w.later[at], f)
}

// every runs f at regular intervals, for the given time. The first run is after the first interval.
func (w *world) every(interval, total time.Duration, f func()) {
	for d := interval; d <= total; d += interval {
		w.after(d, f)
	}
}

// brief starts a pod that works for a second and then is idle until Knative deletes it.
func (w *world) brief(function string, work func(ctx context.Context)) {
	p := w.begin(function, w.now.Add(life))
	w.after(time.Second, func() { p.do(work) })
}

// pass simulates the given time, in steps of one second.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(time.Second)
		for _, f := range w.later[w.now] {
			f()
		}
		delete(w.later, w.now)
		w.scrape()
		if w.now.Sub(w.start)%time.Minute == 0 {
			w.evaluate()
		}
	}
}

// scrape stores the samples of this second.
func (w *world) scrape() {
	w.t.Helper()
	at, elapsed := w.now.UnixMilli(), w.now.Sub(w.start)
	for _, p := range w.pods {
		if elapsed%scrapeInterval != p.phase || p.scraped == nil {
			continue
		}
		gone, scraped := !w.now.Before(p.ends), map[string]labels.Labels{}
		if !gone && !p.silent {
			for key, s := range parse(w.t, p.metrics(len(p.told)-1), "pod", p.name, "namespace", "strongroom") {
				w.memory.add(s.labels, at, s.value)
				scraped[key] = s.labels
			}
		}
		// After a failed scrape, and for a target that has gone, Prometheus marks the series as stale.
		w.stale(p.scraped, scraped)
		if p.scraped = scraped; gone {
			p.scraped = nil
		}
	}
	if elapsed%(30*time.Second) != 0 {
		return
	}
	var text strings.Builder
	for series, v := range w.outside {
		fmt.Fprintf(&text, "%s %v\n", series, v)
	}
	for _, s := range parse(w.t, text.String()) {
		w.memory.add(s.labels, at, s.value)
	}
}

type sample struct {
	labels labels.Labels
	value  float64
}

// parse returns the samples in a text in the Prometheus format, with additional labels.
func parse(t *testing.T, text string, more ...string) map[string]sample {
	t.Helper()
	found := map[string]sample{}
	p := textparse.NewPromParser([]byte(text), labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		if name, _, _ := p.Series(); strings.HasPrefix(string(name), "go_") {
			continue // no rule reads the metrics of the Go runtime
		}
		var series labels.Labels
		p.Labels(&series)
		_, _, v := p.Series()
		builder := labels.NewBuilder(series)
		for i := 0; i < len(more); i += 2 {
			builder.Set(more[i], more[i+1])
		}
		series = builder.Labels()
		found[series.String()] = sample{series, v}
	}
}

// query returns the result of an instant query at the current time.
func (w *world) query(expr string) promql.Vector {
	w.t.Helper()
	q, err := w.engine.NewInstantQuery(w.t.Context(), w.memory, nil, expr, w.now)
	if err != nil {
		w.t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	vector, err := q.Exec(w.t.Context()).Vector()
	if err != nil {
		w.t.Fatalf("%s: %v", expr, err)
	}
	return slices.Clone(vector)
}

// counted returns the sum of a counter over all containers of all pods, by the given labels. It reads the metrics of
// the containers directly, so it also has the counts of containers that have ended.
func (w *world) counted(metric string, matchers []*labels.Matcher, by []string) map[string]float64 {
	totals := map[string]float64{}
	for _, p := range w.pods {
		for container := range p.told {
		series:
			for _, s := range parse(w.t, p.metrics(container)) {
				if s.labels.Get("__name__") != metric {
					continue
				}
				for _, m := range matchers {
					if m.Name != "__name__" && !m.Matches(s.labels.Get(m.Name)) {
						continue series
					}
				}
				totals[s.labels.MatchLabels(true, by...).String()] += s.value
			}
		}
	}
	return totals
}
