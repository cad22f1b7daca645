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

// The names under which a trace travels: attributes of an event (the CloudEvents extension "Distributed Tracing"), and
// header fields of HTTP, which the binary mode of an event writes with a prefix.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// headers are the header fields, in the spelling that http.Header knows without a copy; those of an event first.
var headers = []struct{ parent, state string }{{"Ce-Traceparent", "Ce-Tracestate"}, {"Traceparent", "Tracestate"}}

// Begin begins the part that this process has in the request's trace, of which the context then knows, and returns what
// must be called with the status of the answer; 0 is for a connection that was cut instead.
//
// An event in binary mode carries the trace in which it came to be, so that is the one that its delivery belongs to. With
// traces off, one that came is passed on as it is, and where none came there is still an id, so that the log lines
// of all functions join.
func Begin(r *http.Request) (ctx context.Context, end func(status int)) {
	t, start := from(r.Context()), time.Now()
	ctx = extract(r)
	if t.tracer == nil && !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, newTrace())
	}
	if t.tracer == nil && t.metrics == nil {
		return ctx, untoldStatus
	}
	route := Route(r.URL.Path)
	method := knownMethod(r.Method)
	if t.tracer == nil {
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

// untoldStatus and untoldOutcome end what nobody wants to know of.
func untoldStatus(int)     {}
func untoldOutcome(string) {}

// extract returns the request's context with the trace that the request came in, if it came in one.
func extract(r *http.Request) context.Context {
	for _, names := range headers {
		parent := r.Header.Get(names.parent)
		if parent == "" {
			continue
		}
		ctx := w3c.Extract(r.Context(), propagation.MapCarrier{traceparent: parent, tracestate: r.Header.Get(names.state)})
		if trace.SpanContextFromContext(ctx).IsValid() {
			return ctx
		}
	}
	return r.Context()
}

// newTrace returns a trace that nobody records.
func newTrace() trace.SpanContext {
	var c trace.SpanContextConfig
	var random [len(c.TraceID) + len(c.SpanID)]byte
	rand.Read(random[:]) // never fails
	copy(c.TraceID[:], random[:])
	copy(c.SpanID[:], random[len(c.TraceID):])
	return trace.NewSpanContext(c)
}

// TraceID returns the id of the trace that ctx belongs to, empty outside of one.
func TraceID(ctx context.Context) string {
	if c := trace.SpanContextFromContext(ctx); c.HasTraceID() {
		return c.TraceID().String()
	}
	return ""
}

// Inject writes the trace that ctx belongs to into the header of a request to another function, which then tells of no
// other: what a client sent is there no more.
func Inject(ctx context.Context, header http.Header) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	for _, names := range headers {
		header.Del(names.parent)
		header.Del(names.state)
	}
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
// called with its outcome: "confirmed", "failed" or "unknown". extensions are those of the event.
//
// It is part of the trace in which the event came to be, wherever that is: whoever looks for what became of a file finds
// that sweep published its event an hour later. The request that did it, if it is another one, is linked.
func Publishing(ctx context.Context, system string, extensions map[string]any) (_ context.Context, end func(outcome string)) {
	t := from(ctx)
	if t.tracer == nil && t.metrics == nil {
		return ctx, untoldOutcome
	}
	if t.tracer == nil {
		return ctx, t.metrics.publish
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", system), attribute.String("messaging.operation.type", "send"))}
	here := trace.SpanContextFromContext(ctx)
	if origin := originOf(extensions); origin.IsValid() && !(origin.TraceID() == here.TraceID() && origin.SpanID() == here.SpanID()) {
		ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
		options = append(options, trace.WithLinks(trace.Link{SpanContext: here}))
	}
	ctx, span := t.tracer.Start(ctx, "publish", options...)
	return ctx, func(outcome string) {
		if outcome != "confirmed" {
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
		t.metrics.publish(outcome)
	}
}

// originOf returns what an event was made in.
func originOf(extensions map[string]any) trace.SpanContext {
	carrier := propagation.MapCarrier{}
	for _, name := range []string{traceparent, tracestate} {
		if value, ok := extensions[name].(string); ok {
			carrier[name] = value
		}
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), carrier))
}
