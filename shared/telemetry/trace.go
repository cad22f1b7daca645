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

// w3c reads and writes the traceparent and tracestate fields (W3C Trace Context).
var w3c = propagation.TraceContext{}

// These two fields carry a trace. In an HTTP request, they are headers. In an event, they are extension attributes
// (CloudEvents extension "Distributed Tracing"), which become "ce-" headers in binary mode.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// headers lists the header pairs that can carry a trace, in the order in which extract tries them. The names are in
// canonical form, so that http.Header.Get does not allocate memory.
var headers = []struct{ parent, state string }{{"Ce-Traceparent", "Ce-Tracestate"}, {"Traceparent", "Tracestate"}}

// Begin starts a span for the request r, and returns a context that carries the request's trace. A public request
// begins a new trace, and its span has a link to the client's span. Any other request continues the trace in its
// headers. The caller must call the returned end function with the response status, or with 0 if the connection was
// cut.
func Begin(r *http.Request, public bool) (ctx context.Context, end func(status int)) {
	t, start := from(r.Context()), time.Now()
	ctx = extract(r)
	sent := trace.SpanContextFromContext(ctx)
	if public {
		ctx = r.Context()
	}
	// Generate a trace ID, so that the log lines of all functions for this request have the same trace ID.
	if t.tracer == nil && !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, newTrace())
	}
	if t.tracer == nil && t.metrics == nil {
		return ctx, func(int) {}
	}
	route := Route(r.URL.Path)
	method := knownMethod(r.Method)
	if t.tracer == nil {
		return ctx, func(status int) { t.metrics.request(method, route, status, time.Since(start)) }
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route))}
	if public && sent.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: sent}))
	}
	ctx, span := t.tracer.Start(ctx, method+" "+route, options...)
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

// extract returns a copy of r's context that carries the trace from r's headers. If the headers contain no valid
// trace, extract returns r's context unchanged.
func extract(r *http.Request) context.Context {
	// Try an event's trace headers before the trace headers of the HTTP request, so that the event's creation and
	// delivery belong to the same trace.
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

// newTrace returns a span context with random trace and span IDs. The span context is not marked as sampled,
// because no span with these IDs is recorded.
func newTrace() trace.SpanContext {
	var c trace.SpanContextConfig
	var random [len(c.TraceID) + len(c.SpanID)]byte
	rand.Read(random[:]) // never fails
	copy(c.TraceID[:], random[:])
	copy(c.SpanID[:], random[len(c.TraceID):])
	return trace.NewSpanContext(c)
}

// TraceID returns the trace ID in ctx, or an empty string if ctx carries no trace.
func TraceID(ctx context.Context) string {
	if c := trace.SpanContextFromContext(ctx); c.HasTraceID() {
		return c.TraceID().String()
	}
	return ""
}

// Inject writes the trace in ctx, if any, to the headers of a request to another function. It replaces trace
// headers that a client sent.
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

// Inherit adds the trace in ctx to an event by calling setExtension for each extension attribute. The event keeps
// this trace even if it is published several times.
func Inherit(ctx context.Context, setExtension func(name string, value any)) {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	for name, value := range carrier {
		setExtension(name, value)
	}
}

// Publishing starts a span for publishing an event to the given system, such as "rabbitmq". The caller must call
// the returned end function with the error of the attempt, or with nil if the event was confirmed.
func Publishing(ctx context.Context, system string, extensions map[string]any) (_ context.Context, end func(err error)) {
	t := from(ctx)
	if t.tracer == nil && t.metrics == nil {
		return ctx, func(error) {}
	}
	if t.tracer == nil {
		return ctx, t.metrics.publish
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", system), attribute.String("messaging.operation.type", "send"))}
	here := trace.SpanContextFromContext(ctx)
	// Start the span in the trace in which the event was created, and link it to the current span. The current trace
	// might be a different one, because an event can be published long after its creation.
	if origin := originOf(extensions); origin.IsValid() && !(origin.TraceID() == here.TraceID() && origin.SpanID() == here.SpanID()) {
		ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
		options = append(options, trace.WithLinks(trace.Link{SpanContext: here}))
	}
	ctx, span := t.tracer.Start(ctx, "publish", options...)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, publishFailed)
		}
		span.End()
		t.metrics.publish(err)
	}
}

// originOf returns the span context in which an event was created. extensions are the event's extension attributes. If
// they carry no trace, the returned span context is not valid.
func originOf(extensions map[string]any) trace.SpanContext {
	carrier := propagation.MapCarrier{}
	for _, name := range []string{traceparent, tracestate} {
		if value, ok := extensions[name].(string); ok {
			carrier[name] = value
		}
	}
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), carrier))
}
