package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// How durations are sorted, in seconds.
var (
	requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	waitBuckets    = []float64{.001, .01, .05, .1, .25, .5, 1, 2, 4, 8}
	uploadBuckets  = []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 600, 3600, 24 * 3600}
	recordBuckets  = []float64{.01, .025, .05, .1, .25, .5, 1, 5, 15, 60, 300, 3600}
)

const (
	// scrapesAtOnce and scrapeTimeout bound what scraping may cost.
	scrapesAtOnce = 2
	scrapeTimeout = 5 * time.Second
)

// metrics are what a function counts. docs/operations.md describes each. A nil one counts nothing. A function shows only
// those that it has counted something of: a gauge that nobody has measured would say that all is well.
type metrics struct {
	registry        *prometheus.Registry
	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	logins          *prometheus.CounterVec
	hashWait        *prometheus.HistogramVec
	validations     *prometheus.CounterVec
	uploadBytes     *prometheus.CounterVec
	uploadDuration  *prometheus.HistogramVec
	publishes       *prometheus.CounterVec
	records         *prometheus.CounterVec
	recordDelay     *prometheus.HistogramVec
	swept           *prometheus.CounterVec
	queued          *prometheus.GaugeVec
	deadLetters     *prometheus.GaugeVec
}

// newMetrics returns metrics of the function called name.
func newMetrics(name string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	with := prometheus.WrapRegistererWith(prometheus.Labels{"function": name}, m.registry)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		with.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		with.MustRegister(h)
		return h
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, nil)
		with.MustRegister(g)
		return g
	}
	with.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.requests = counter("strongroom_http_requests_total", "Requests by what they were answered.", "route", "method", "code")
	m.requestDuration = histogram("strongroom_http_request_duration_seconds", "Time from a request's headers to the end of its answer.", requestBuckets, "route", "code")
	m.logins = counter("strongroom_logins_total", "Sign-ins by what came of them.", "result")
	m.hashWait = histogram("strongroom_password_hash_wait_seconds", "Time that a password waited for its turn to be hashed.", waitBuckets)
	m.validations = counter("strongroom_validations_total", "Questions about a token by their answer.", "code", "reason")
	m.uploadBytes = counter("strongroom_upload_bytes_total", "Bytes of files that were taken in.", "protocol")
	m.uploadDuration = histogram("strongroom_upload_duration_seconds", "Time from the beginning of an upload to its end.", uploadBuckets, "protocol", "result")
	m.publishes = counter("strongroom_publishes_total", "Attempts to publish an event.", "outcome")
	m.records = counter("strongroom_records_total", "Events that came to record.", "outcome")
	m.recordDelay = histogram("strongroom_record_delay_seconds", "Time from a file's last byte to its catalogue entry.", recordBuckets)
	m.swept = counter("strongroom_swept_total", "What sweep finished for others.", "what")
	m.queued = gauge("strongroom_queued_events", "Events in the queue when sweep last looked.")
	m.deadLetters = gauge("strongroom_dead_letters", "Events in the dead-letter queue when sweep last looked.")
	return m
}

// handler answers GET /metrics.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
	}))
	return mux
}

func (m *metrics) request(method, route string, status int, d time.Duration) {
	if m != nil {
		code := strconv.Itoa(status)
		m.requests.WithLabelValues(route, method, code).Inc()
		m.requestDuration.WithLabelValues(route, code).Observe(d.Seconds())
	}
}

func (m *metrics) publish(outcome string) {
	if m != nil {
		m.publishes.WithLabelValues(outcome).Inc()
	}
}

// Login counts a sign-in. result is one of a few words.
func Login(ctx context.Context, result string) {
	if m := from(ctx).metrics; m != nil {
		m.logins.WithLabelValues(result).Inc()
	}
}

// HashWait notes how long a password waited for its turn to be hashed, or in vain.
func HashWait(ctx context.Context, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		m.hashWait.WithLabelValues().Observe(d.Seconds())
	}
}

// Validation counts a question about a token, by the status of its answer. reason is one of a few words.
func Validation(ctx context.Context, status int, reason string) {
	if m := from(ctx).metrics; m != nil {
		m.validations.WithLabelValues(strconv.Itoa(status), reason).Inc()
	}
}

// Upload notes the end of an upload that began d ago: by protocol, "http" or "tus", and by result, one of a few words.
// size is that of the file that was taken in, in bytes, and 0 if none was.
func Upload(ctx context.Context, protocol, result string, size int64, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		m.uploadBytes.WithLabelValues(protocol).Add(float64(size))
		m.uploadDuration.WithLabelValues(protocol, result).Observe(d.Seconds())
	}
}

// Record counts an event that came to record. outcome is one of a few words.
func Record(ctx context.Context, outcome string) {
	if m := from(ctx).metrics; m != nil {
		m.records.WithLabelValues(outcome).Inc()
	}
}

// RecordDelay notes how long after its last byte a file was catalogued.
func RecordDelay(ctx context.Context, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		m.recordDelay.WithLabelValues().Observe(d.Seconds())
	}
}

// Swept counts n things that sweep finished. what is one of a few words.
func Swept(ctx context.Context, what string, n int64) {
	if m := from(ctx).metrics; m != nil {
		m.swept.WithLabelValues(what).Add(float64(n))
	}
}

// Queues notes how many events wait, and how many are dead letters.
func Queues(ctx context.Context, waiting, dead int) {
	if m := from(ctx).metrics; m != nil {
		m.queued.WithLabelValues().Set(float64(waiting))
		m.deadLetters.WithLabelValues().Set(float64(dead))
	}
}
