// Package telemetry provides Prometheus metrics and OpenTelemetry traces, which are off by default. Labels and span
// attributes never contain values that a client can choose freely, such as names or paths. Each label has few possible
// values, because each value creates another time series.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Settings configures a Telemetry.
type Settings struct {
	// Function is the name of the function in metrics and traces. If Function is empty, New uses the file name of the
	// running program.
	Function string
	// Revision is the name of the function's Knative revision. Traces contain it as the attribute service.version.
	Revision string
	// Metrics turns metrics on.
	Metrics bool
	// Endpoint and TracesEndpoint are the values of OTEL_EXPORTER_OTLP_ENDPOINT and
	// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. If both are empty, traces are off. New only checks the values, because
	// the OpenTelemetry SDK reads the variables itself.
	Endpoint, TracesEndpoint string
}

const (
	// exportTimeout is how long the export of one batch of spans may take, including retries. A batch that takes
	// longer is dropped.
	exportTimeout = 5 * time.Second
	// queueSize is the maximum number of spans that wait for export. If the queue is full, new spans are dropped, so
	// that a request never waits for the exporter.
	queueSize = 2048
	// complaintPause is the minimum interval between two log messages about OpenTelemetry errors. It keeps an
	// unavailable collector from filling the log.
	complaintPause = time.Minute
)

// Telemetry records the metrics and traces of one process.
type Telemetry struct {
	metrics  *metrics                 // nil if metrics are off
	tracer   trace.Tracer             // nil if traces are off
	provider *sdktrace.TracerProvider // nil if traces are off
}

// New returns a Telemetry for the settings s. It does not connect to the trace receiver. An error names the invalid
// environment variable.
func New(ctx context.Context, s Settings) (*Telemetry, error) {
	if s.Function == "" {
		s.Function = filepath.Base(os.Args[0])
	}
	t := &Telemetry{}
	if s.Metrics {
		t.metrics = newMetrics(s.Function)
	}
	if s.Endpoint == "" && s.TracesEndpoint == "" {
		return t, nil
	}
	for name, value := range map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": s.Endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": s.TracesEndpoint} {
		// Check the URL here, because the exporter would replace an invalid URL with its default instead of returning
		// an error.
		if u, err := url.Parse(value); value != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return nil, fmt.Errorf("%s: must be the URL of an OTLP/HTTP receiver, such as http://collector:4318", name)
		}
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout,
	}))
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	attributes := []attribute.KeyValue{attribute.String("service.namespace", "strongroom"), attribute.String("service.name", s.Function)}
	if s.Revision != "" {
		attributes = append(attributes, attribute.String("service.version", s.Revision))
	}
	about, err := resource.New(ctx, resource.WithAttributes(attributes...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(&complaints{})
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithResource(about),
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(queueSize), sdktrace.WithExportTimeout(exportTimeout)))
	t.tracer = t.provider.Tracer("github.com/strongroom-dev/strongroom")
	return t, nil
}

// complaints is an error handler for OpenTelemetry. It logs at most one error per complaintPause, because an
// unavailable collector would otherwise fill the log.
type complaints struct{ last atomic.Int64 }

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	now, last := time.Now().UnixNano(), c.last.Load()
	if now-last >= int64(complaintPause) && c.last.CompareAndSwap(last, now) {
		slog.Warn("OpenTelemetry reported an error; traces might be lost", "error", err)
	}
}

// Handler returns the handler for GET /metrics, or nil if metrics are off.
func (t *Telemetry) Handler() http.Handler {
	if t.metrics == nil {
		return nil
	}
	return t.metrics.handler()
}

// Close exports the spans that are still waiting, and stops the exporter. If ctx is done before the export is complete,
// Close returns an error.
func (t *Telemetry) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

type contextKey struct{}

// In returns a copy of ctx that carries t.
func (t *Telemetry) In(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// off is a Telemetry that records neither metrics nor traces.
var off = &Telemetry{}

// from returns the Telemetry in ctx. If ctx contains none, it returns a Telemetry that records nothing.
func from(ctx context.Context) *Telemetry {
	if t, ok := ctx.Value(contextKey{}).(*Telemetry); ok {
		return t
	}
	return off
}
