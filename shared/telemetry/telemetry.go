// Package telemetry lets a running system be seen: metrics for Prometheus, and traces (OpenTelemetry) that follow a file
// from the gateway through RabbitMQ to the catalogue. Both are off unless they are asked for.
//
// A context carries it: function.Main puts a Telemetry into that of every request, and what happens is told to the
// functions of this package, which do nothing where the context has none. So nothing is global, and code that tells needs
// no setting. No value that a client chooses ever becomes a label or an attribute: no name, id, path or query.
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

// Settings say what is wanted.
type Settings struct {
	// Function is the name of the function in metrics and traces; empty means the name of the program.
	Function string
	// Revision is Knative's name of the version that runs, for traces.
	Revision string
	// Metrics tells whether metrics are kept.
	Metrics bool
	// Endpoint and TracesEndpoint are OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: where traces go,
	// by OTLP over HTTP. If both are empty none are made. The exporter reads them, and the other variables with this
	// prefix, by itself; the sampler reads OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.
	Endpoint, TracesEndpoint string
}

const (
	// exportTimeout bounds the sending of one batch of spans, with its retries; what is not delivered by then is dropped.
	exportTimeout = 5 * time.Second
	// queueSize bounds the spans that wait to be sent; more than that are dropped. Requests never wait.
	queueSize = 2048
	// complaintPause is the least time between two lines of the log that say that traces are lost.
	complaintPause = time.Minute
)

// Telemetry is what one process tells of itself.
type Telemetry struct {
	metrics  *metrics                 // nil: off
	tracer   trace.Tracer             // nil: off
	provider *sdktrace.TracerProvider // nil: off
}

// New returns a Telemetry as the settings want it. It connects to nothing yet.
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
		// The exporter would take a default instead of what it can not read.
		if u, err := url.Parse(value); value != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return nil, fmt.Errorf("%s: want the URL of an OTLP/HTTP receiver, such as http://collector:4318", name)
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

// complaints logs what OpenTelemetry can not do: the first time, and then once in complaintPause, or a collector that is
// away would fill the log.
type complaints struct{ last atomic.Int64 }

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	now, last := time.Now().UnixNano(), c.last.Load()
	if now-last >= int64(complaintPause) && c.last.CompareAndSwap(last, now) {
		slog.Warn("traces are lost", "error", err)
	}
}

// Handler returns what answers GET /metrics, nil if metrics are off.
func (t *Telemetry) Handler() http.Handler {
	if t.metrics == nil {
		return nil
	}
	return t.metrics.handler()
}

// Close sends the spans that still wait, no longer than ctx.
func (t *Telemetry) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

type contextKey struct{}

// In returns a context that carries t.
func (t *Telemetry) In(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// off is what a context carries that carries nothing.
var off = &Telemetry{}

// from returns what ctx carries, never nil.
func from(ctx context.Context) *Telemetry {
	if t, ok := ctx.Value(contextKey{}).(*Telemetry); ok {
		return t
	}
	return off
}
