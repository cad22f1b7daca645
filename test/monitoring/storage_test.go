package monitoring

import (
	"context"
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// memory stores samples for the engine of Prometheus. Prometheus' own storage would be twice as much code to compile.
type memory struct {
	series map[string]*series
	named  map[string][]*series // by the name of the metric
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

func newMemory() *memory { return &memory{map[string]*series{}, map[string][]*series{}} }

// add appends a sample to a series. The times of the samples must increase, and t is in milliseconds.
func (m *memory) add(of labels.Labels, t int64, v float64) {
	s := m.series[of.String()]
	if s == nil {
		s = &series{labels: of}
		name := of.Get(labels.MetricName)
		m.series[of.String()], m.named[name] = s, append(m.named[name], s)
	}
	s.samples = append(s.samples, point{t, v})
}

// Querier implements storage.Queryable.
func (m *memory) Querier(from, to int64) (storage.Querier, error) {
	return querier{storage.NoopQuerier(), m, from, to}, nil
}

type querier struct {
	storage.Querier
	memory   *memory
	from, to int64
}

// Select implements storage.Querier.
func (q querier) Select(_ context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	from, to := q.from, q.to
	if hints != nil {
		from, to = hints.Start, hints.End
	}
	found := &selection{}
	for name, all := range q.memory.named {
		for _, s := range all {
			if !matches(name, s.labels, matchers) {
				continue
			}
			first := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() >= from })
			end := sort.Search(len(s.samples), func(i int) bool { return s.samples[i].T() > to })
			if first < end {
				found.series = append(found.series, storage.NewListSeries(s.labels, s.samples[first:end]))
			}
		}
	}
	return found
}

func matches(name string, series labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if m.Name == labels.MetricName && !m.Matches(name) || m.Name != labels.MetricName && !m.Matches(series.Get(m.Name)) {
			return false
		}
	}
	return true
}

// selection implements storage.SeriesSet.
type selection struct {
	series []storage.Series
	next   int
}

func (s *selection) Next() bool                      { s.next++; return s.next <= len(s.series) }
func (s *selection) At() storage.Series              { return s.series[s.next-1] }
func (*selection) Err() error                        { return nil }
func (*selection) Warnings() annotations.Annotations { return nil }

// point implements chunks.Sample.
type point struct {
	t int64
	v float64
}

func (p point) T() int64                    { return p.t }
func (point) ST() int64                     { return 0 }
func (p point) F() float64                  { return p.v }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }
