package telemetry

import (
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// w3c reads and writes traceparent and tracestate (W3C Trace Context).
var w3c = propagation.TraceContext{}

// The names under which a trace travels: header fields of HTTP, and attributes of an event (the CloudEvents extension
// "Distributed Tracing"), which the binary mode writes with a prefix.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
	eventPrefix = "Ce-"
)

// Begin begins the part that this process has in the request's trace, of which the context then knows, and returns what
// must be called with the status of the answer; 0 is for a connection that was cut instead.
//
// An event in binary mode carries the trace in which it came to be, so that is the one that its delivery belongs to. With
// traces off, one that came is passed on as it is, and where none came there is still an id, so that the log lines
// of all functions join.
func Begin(r *http.Request) (ctx context.Context, end func(status int)) {
	t, start := from(r.Context()), time.Now()
	ctx = extract(r)
	route := Route(r.URL.Path)
	method := knownMethod(r.Method)
	if t.tracer == nil {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			ctx = trace.ContextWithSpanContext(ctx, newTrace())
		}
		return ctx, func(status int) { t.metrics.request(method, route, status, time.Since(start)) }
	}
	ctx, span := t.tracer.Start(ctx, method+" "+route, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route)))
	return ctx, func(status int) {
		if status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", status))
		}
		if status == 0 || status >= 500 {
			span.SetStatus(codes.Error, "")
		}
		span.End()
		t.metrics.request(method, route, status, time.Since(start))
	}
}

// extract returns the request's context with the trace that the request came in, if it came in one.
func extract(r *http.Request) context.Context {
	for _, prefix := range []string{eventPrefix, ""} {
		ctx := w3c.Extract(r.Context(), propagation.MapCarrier{
			traceparent: r.Header.Get(prefix + traceparent), tracestate: r.Header.Get(prefix + tracestate)})
		if trace.SpanContextFromContext(ctx).IsValid() {
			return ctx
		}
	}
	return r.Context()
}

// newTrace returns a trace that nobody records.
func newTrace() trace.SpanContext {
	var c trace.SpanContextConfig
	rand.Read(c.TraceID[:]) // never fails
	rand.Read(c.SpanID[:])
	return trace.NewSpanContext(c)
}

// TraceID returns the id of the trace that ctx belongs to, empty outside of one.
func TraceID(ctx context.Context) string {
	if c := trace.SpanContextFromContext(ctx); c.HasTraceID() {
		return c.TraceID().String()
	}
	return ""
}

// Inject writes the trace that ctx belongs to into the header of a request to another function.
func Inject(ctx context.Context, header http.Header) {
	w3c.Inject(ctx, propagation.HeaderCarrier(header))
}

// Inherit gives an event the trace that ctx belongs to. The event keeps it however often, and by whomever, it is
// published. set sets an extension attribute of the event.
func Inherit(ctx context.Context, set func(name string, value any)) {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	for name, value := range carrier {
		set(name, value)
	}
}

// Publishing begins the sending of an event to what has the name system, such as rabbitmq, and returns what must be
// called with its outcome: "confirmed", "failed" or "unknown".
func Publishing(ctx context.Context, system string) (_ context.Context, end func(outcome string)) {
	t := from(ctx)
	if t.tracer == nil {
		return ctx, t.metrics.publish
	}
	ctx, span := t.tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", system), attribute.String("messaging.operation.type", "send")))
	return ctx, func(outcome string) {
		if outcome != "confirmed" {
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
		t.metrics.publish(outcome)
	}
}
