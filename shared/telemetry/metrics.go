package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The upper bounds of the histogram buckets, in seconds.
var (
	requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	waitBuckets    = []float64{.001, .01, .05, .1, .25, .5, 1, 2, 4, 8}
	uploadBuckets  = []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 600, 3600, 24 * 3600}
	recordBuckets  = []float64{.01, .025, .05, .1, .25, .5, 1, 5, 15, 60, 300, 3600}
)

const (
	// scrapesAtOnce is the maximum number of concurrent requests to /metrics, and scrapeTimeout is how long each
	// request may take. Together, they limit the load that these requests cause.
	scrapesAtOnce = 2
	scrapeTimeout = 5 * time.Second
)

// metrics holds one function's metrics, which docs/monitoring.md describes. The methods of a nil *metrics do
// nothing.
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
	// The gauges are vectors, although they have no labels, because a plain gauge that was never set would appear as 0,
	// which looks healthy.
	queued      *prometheus.GaugeVec
	deadLetters *prometheus.GaugeVec

	uncataloged    *prometheus.GaugeVec
	uncatalogedFor *prometheus.GaugeVec
}

// newMetrics returns metrics that have the label "function" with the given value. The series that the function can count
// start at 0.
func newMetrics(function string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	with := prometheus.WrapRegistererWith(prometheus.Labels{"function": function}, m.registry)
	auto := promauto.With(with)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return auto.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, nil)
	}
	with.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.requests = counter("strongroom_http_requests_total", "HTTP requests, by route, method and response status. The code is 0 if the function cut the connection, and 499 if the client disconnected.", "route", "method", "code")
	m.requestDuration = histogram("strongroom_http_request_duration_seconds", "Time from the headers of a request to the end of its response, in seconds.", requestBuckets, "route", "code")
	m.logins = counter("strongroom_logins_total", "Sign-in attempts, by result.", "result")
	m.hashWait = histogram("strongroom_password_hash_wait_seconds", "Time that a password waited to be hashed, in seconds.", waitBuckets)
	m.validations = counter("strongroom_validations_total", "Access token validations, by response status and reason.", "code", "reason")
	m.uploadBytes = counter("strongroom_upload_bytes_total", "Bytes in stored files.", "protocol")
	m.uploadDuration = histogram("strongroom_upload_duration_seconds", "Time from the start of an upload to its end, in seconds.", uploadBuckets, "protocol", "result")
	m.publishes = counter("strongroom_publishes_total", "Attempts to publish an event, by outcome.", "outcome")
	m.records = counter("strongroom_records_total", "Events that the record function received, by outcome.", "outcome")
	m.recordDelay = histogram("strongroom_record_delay_seconds", "Time from the last byte of a file to its catalog entry, in seconds.", recordBuckets)
	m.swept = counter("strongroom_swept_total", "Items that the sweep function processed, by kind.", "what")
	m.queued = gauge("strongroom_queued_events", "Events in the queue when the sweep function last ran.")
	m.deadLetters = gauge("strongroom_dead_letters", "Events in the dead-letter queue when the sweep function last ran.")
	m.uncataloged = gauge("strongroom_uncataloged_files", "Stored files that the sweep function has found without a catalog entry.")
	m.uncatalogedFor = gauge("strongroom_uncataloged_seconds", "Time since the first of the uncataloged files was stored, in seconds.")
	m.start(function)
	return m
}

// handler returns the handler for GET /metrics.
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

func (m *metrics) publish(err error) {
	if m == nil {
		return
	}
	outcome := publishConfirmed
	if err != nil {
		outcome = publishFailed
	}
	m.publishes.WithLabelValues(outcome).Inc()
}

// Login counts a sign-in attempt.
func Login(ctx context.Context, result LoginResult) {
	if m := from(ctx).metrics; m != nil {
		m.logins.WithLabelValues(loginResults[result]).Inc()
	}
}

// HashWait records d, the time that a password hash computation waited before it started or timed out.
func HashWait(ctx context.Context, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		m.hashWait.WithLabelValues().Observe(d.Seconds())
	}
}

// Validation counts a validation of an access token. status is the HTTP response status.
func Validation(ctx context.Context, status int, reason ValidationReason) {
	if m := from(ctx).metrics; m != nil {
		m.validations.WithLabelValues(strconv.Itoa(status), validationReasons[reason].reason).Inc()
	}
}

// Upload records an upload that took d. size is the size of the stored file in bytes, or 0 if no file was stored.
func Upload(ctx context.Context, result UploadResult, size int64, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		labels := uploadResults[result]
		m.uploadBytes.WithLabelValues(labels.protocol).Add(float64(size))
		m.uploadDuration.WithLabelValues(labels.protocol, labels.result).Observe(d.Seconds())
	}
}

// Record counts an event that the record function received.
func Record(ctx context.Context, outcome RecordOutcome) {
	if m := from(ctx).metrics; m != nil {
		m.records.WithLabelValues(recordOutcomes[outcome]).Inc()
	}
}

// RecordDelay records d, the delay between the arrival of a file's last byte and the creation of the file's catalog
// entry.
func RecordDelay(ctx context.Context, d time.Duration) {
	if m := from(ctx).metrics; m != nil {
		m.recordDelay.WithLabelValues().Observe(d.Seconds())
	}
}

// Swept counts n items that the sweep function processed.
func Swept(ctx context.Context, kind SweptKind, n int64) {
	if m := from(ctx).metrics; m != nil {
		m.swept.WithLabelValues(sweptKinds[kind]).Add(float64(n))
	}
}

// Queues records how many events are waiting in the queue and in the dead-letter queue.
func Queues(ctx context.Context, waiting, dead int) {
	if m := from(ctx).metrics; m != nil {
		m.queued.WithLabelValues().Set(float64(waiting))
		m.deadLetters.WithLabelValues().Set(float64(dead))
	}
}

// Uncataloged records how many stored files have no catalog entry, and how long the first of them has been stored.
func Uncataloged(ctx context.Context, files, seconds int64) {
	if m := from(ctx).metrics; m != nil {
		m.uncataloged.WithLabelValues().Set(float64(files))
		m.uncatalogedFor.WithLabelValues().Set(float64(seconds))
	}
}
