package telemetry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"sigs.k8s.io/yaml"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func newTelemetry(t *testing.T, s Settings) *Telemetry {
	t.Helper()
	made, err := New(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// scrape returns the response body of GET /metrics.
func scrape(t *testing.T, told *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	told.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/metrics: got status %d, want 200", w.Code)
	}
	return w.Body.String()
}

// tellAll records a value for every metric.
func tellAll(ctx context.Context) {
	r := httptest.NewRequestWithContext(ctx, "POST", "/files/secret-id/content?name=secret", nil)
	_, end := Begin(r, false)
	end(200)
	tellOfWork(ctx)
}

// tellOfWork records a value for every metric, except the metrics of requests.
func tellOfWork(ctx context.Context) {
	Login(ctx, LoginSuccess)
	HashWait(ctx, time.Second)
	Validation(ctx, 401, ValidationExpired)
	Upload(ctx, HTTPStored, 1234, time.Second)
	_, done := Publishing(ctx, "rabbitmq", nil)
	done(nil)
	Record(ctx, RecordCatalogued)
	RecordDelay(ctx, time.Second)
	Swept(ctx, SweptPublished, 2)
	Queues(ctx, 3, 4)
	Uncataloged(ctx, 5, 6)
}

func TestMetrics(t *testing.T) {
	told := newTelemetry(t, Settings{Function: "upload", Metrics: true})
	ctx := told.In(t.Context())
	if text := scrape(t, told); !strings.Contains(text, `go_goroutines{function="upload"}`) {
		t.Errorf("before the first event, got metrics\n%s\nwant the metrics of the Go runtime", text)
	}
	tellAll(ctx)
	text := scrape(t, told)
	for _, want := range []string{
		`strongroom_http_requests_total{code="200",function="upload",method="POST",route="/files/*/content"} 1`,
		`strongroom_http_request_duration_seconds_count{code="200",function="upload",route="/files/*/content"} 1`,
		`strongroom_logins_total{function="upload",result="success"} 1`,
		`strongroom_password_hash_wait_seconds_sum{function="upload"} 1`,
		`strongroom_validations_total{code="401",function="upload",reason="expired"} 1`,
		`strongroom_upload_bytes_total{function="upload",protocol="http"} 1234`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="stored"} 1`,
		`strongroom_publishes_total{function="upload",outcome="confirmed"} 1`,
		`strongroom_records_total{function="upload",outcome="catalogued"} 1`,
		`strongroom_record_delay_seconds_count{function="upload"} 1`,
		`strongroom_swept_total{function="upload",what="published"} 2`,
		`strongroom_queued_events{function="upload"} 3`,
		`strongroom_dead_letters{function="upload"} 4`,
		`strongroom_uncataloged_files{function="upload"} 5`,
		`strongroom_uncataloged_seconds{function="upload"} 6`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics do not contain the line %s", want)
		}
	}
	if strings.Contains(text, "secret") {
		t.Error("the metrics contain a value that the client has chosen")
	}
	w := httptest.NewRecorder()
	if told.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/debug", nil)); w.Code != http.StatusNotFound {
		t.Errorf("/debug: got status %d, want 404", w.Code)
	}
}

// TestSeriesStartAtZero checks that the series that a function can count exist before the first event, with the value
// 0.
func TestSeriesStartAtZero(t *testing.T) {
	for function, want := range map[string][]string{
		"gateway":  nil,
		"files":    nil,
		"accounts": {`strongroom_password_hash_wait_seconds_count{function="accounts"}`},
		"login": {
			`strongroom_logins_total{function="login",result="locked"}`,
			`strongroom_logins_total{function="login",result="malformed"}`,
			`strongroom_logins_total{function="login",result="must_change"}`,
			`strongroom_logins_total{function="login",result="refused"}`,
			`strongroom_logins_total{function="login",result="success"}`,
			`strongroom_logins_total{function="login",result="unavailable"}`,
			`strongroom_password_hash_wait_seconds_count{function="login"}`,
		},
		"validate": {
			`strongroom_validations_total{code="200",function="validate",reason="good"}`,
			`strongroom_validations_total{code="400",function="validate",reason="malformed"}`,
			`strongroom_validations_total{code="401",function="validate",reason="expired"}`,
			`strongroom_validations_total{code="401",function="validate",reason="invalid"}`,
			`strongroom_validations_total{code="401",function="validate",reason="missing"}`,
			`strongroom_validations_total{code="401",function="validate",reason="stale"}`,
			`strongroom_validations_total{code="403",function="validate",reason="scope"}`,
			`strongroom_validations_total{code="503",function="validate",reason="unavailable"}`,
		},
		"upload": {
			`strongroom_publishes_total{function="upload",outcome="confirmed"}`,
			`strongroom_publishes_total{function="upload",outcome="failed"}`,
			`strongroom_upload_bytes_total{function="upload",protocol="http"}`,
			`strongroom_upload_bytes_total{function="upload",protocol="tus"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="failed"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="refused"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="replayed"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="stored"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="tus",result="stored"}`,
			`strongroom_upload_duration_seconds_count{function="upload",protocol="tus",result="terminated"}`,
		},
		"record": {
			`strongroom_record_delay_seconds_count{function="record"}`,
			`strongroom_records_total{function="record",outcome="catalogued"}`,
			`strongroom_records_total{function="record",outcome="deleted"}`,
			`strongroom_records_total{function="record",outcome="duplicate"}`,
			`strongroom_records_total{function="record",outcome="poison"}`,
			`strongroom_records_total{function="record",outcome="unavailable"}`,
		},
		"sweep": {
			`strongroom_publishes_total{function="sweep",outcome="confirmed"}`,
			`strongroom_publishes_total{function="sweep",outcome="failed"}`,
			`strongroom_swept_total{function="sweep",what="claim"}`,
			`strongroom_swept_total{function="sweep",what="deleted"}`,
			`strongroom_swept_total{function="sweep",what="discarded"}`,
			`strongroom_swept_total{function="sweep",what="failed"}`,
			`strongroom_swept_total{function="sweep",what="finished"}`,
			`strongroom_swept_total{function="sweep",what="published"}`,
		},
	} {
		text := scrape(t, newTelemetry(t, Settings{Function: function, Metrics: true}))
		var got []string
		for _, series := range regexp.MustCompile(`(?m)^(strongroom_\w+(?:_total|_count)\{.*\}) 0$`).FindAllStringSubmatch(text, -1) {
			got = append(got, series[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got the series\n%s\nwant\n%s", function, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// The functions of this package do nothing if metrics and traces are off, or if the context has no Telemetry.
func TestOff(t *testing.T) {
	told := newTelemetry(t, Settings{})
	if told.Handler() != nil {
		t.Error("got a handler for metrics, although metrics are off")
	}
	tellAll(told.In(t.Context()))
	tellAll(t.Context())
	if err := told.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRoute(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "": "other", "/login": "/login", "/login/": "/login", "/login/x": "other", "/validate": "/validate",
		"/validate/a//b/c": "/validate/**", "/validate/": "/validate", "/.well-known/jwks.json": "/.well-known/**",
		"/upload/tus": "/upload/tus", "/upload/tus/": "/upload/tus", "/upload/tus/1": "/upload/tus/*", "/upload/tus/1/2": "other",
		"/files/1": "/files/*", "/files/1/content": "/files/*/content", "/files/1/other": "other", "/accounts/me": "/accounts/me",
		"/accounts/1": "/accounts/*", "/accounts/1/anything": "/accounts/*/**", "/wp-admin.php": "other", "/..": "other", "login": "other",
	} {
		if got := Route(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

// Every path of the API belongs to one of the routes.
func TestRoutesOfTheAPI(t *testing.T) {
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]any `json:"paths"`
	}
	if err := yaml.Unmarshal(text, &document); err != nil || len(document.Paths) == 0 {
		t.Fatalf("decode docs/openapi.yaml: got %d paths, error %v", len(document.Paths), err)
	}
	for path := range document.Paths {
		if path != "/healthz" && Route(path) == otherRoute {
			t.Errorf("%s has no route", path)
		}
	}
}

func TestTracePassesWhileOff(t *testing.T) {
	told := newTelemetry(t, Settings{})
	for name, test := range map[string]struct {
		header map[string]string
		want   string // empty if a new trace is expected
	}{
		"HTTP":              {map[string]string{"Traceparent": parent}, parent},
		"event":             {map[string]string{"Ce-Traceparent": parent}, parent},
		"event before HTTP": {map[string]string{"Ce-Traceparent": parent, "Traceparent": strings.Replace(parent, "0af", "fff", 1)}, parent},
		"invalid event":     {map[string]string{"Ce-Traceparent": "00-x", "Traceparent": parent}, parent},
		"no trace":          {nil, ""},
		"malformed":         {map[string]string{"Traceparent": parent + "\" admin=\"1"}, ""},
		"zero trace ID":     {map[string]string{"Traceparent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"}, ""},
		"invalid version":   {map[string]string{"Traceparent": "ff" + parent[2:]}, ""},
		"public HTTP":       {map[string]string{"Traceparent": parent}, ""},
		"public event":      {map[string]string{"Ce-Traceparent": parent}, ""},
	} {
		r := httptest.NewRequestWithContext(told.In(t.Context()), "GET", "/files", nil)
		for key, value := range test.header {
			r.Header.Set(key, value)
		}
		ctx, end := Begin(r, strings.HasPrefix(name, "public"))
		end(200)
		out := http.Header{}
		Inject(ctx, out)
		got := out.Get("Traceparent")
		if test.want != "" && got != test.want {
			t.Errorf("%s: got traceparent %q, want %q", name, got, test.want)
		}
		if test.want == "" && (!regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`).MatchString(got) || strings.Contains(got, parent[3:35])) {
			t.Errorf("%s: got traceparent %q, want a new one that is not sampled", name, got)
		}
		extensions := map[string]any{}
		Inherit(ctx, func(name string, value any) { extensions[name] = value })
		if id := TraceID(ctx); extensions["traceparent"] != got || got[3:35] != id {
			t.Errorf("%s: got extensions %v and trace ID %s, want those of %s", name, extensions, id, got)
		}
	}
}

func TestWrongEndpoint(t *testing.T) {
	for _, wrong := range []string{"collector:4318", "grpc://collector:4317", "http://", "http://a b"} {
		if _, err := New(t.Context(), Settings{TracesEndpoint: wrong}); err == nil || !strings.HasPrefix(err.Error(), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: ") {
			t.Errorf("%q: got error %v, want one that names the variable", wrong, err)
		}
		if _, err := New(t.Context(), Settings{Endpoint: wrong}); err == nil || !strings.HasPrefix(err.Error(), "OTEL_EXPORTER_OTLP_ENDPOINT: ") {
			t.Errorf("%q: got error %v, want one that names the variable", wrong, err)
		}
	}
}

// Begin replaces a method that the client invents, because every label value creates another time series.
func TestUnknownMethod(t *testing.T) {
	told := newTelemetry(t, Settings{Function: "upload", Metrics: true})
	_, end := Begin(httptest.NewRequestWithContext(told.In(t.Context()), "SECRET", "/login", nil), false)
	end(405)
	want := `strongroom_http_requests_total{code="405",function="upload",method="_OTHER",route="/login"} 1`
	if text := scrape(t, told); !strings.Contains(text, want+"\n") || strings.Contains(text, "SECRET") {
		t.Errorf("got metrics\n%s\nwant the line %s and no other method", text, want)
	}
}

func TestInvalidResourceAttributes(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "region")
	_, err := New(t.Context(), Settings{Endpoint: "http://127.0.0.1:1"})
	if err == nil || !strings.HasPrefix(err.Error(), "OTEL_RESOURCE_ATTRIBUTES: ") {
		t.Errorf("got error %v, want one that names the variable", err)
	}
}

// recording returns a Telemetry whose spans are in the returned exporter after they have ended.
func recording() (*Telemetry, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	return &Telemetry{tracer: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("")}, spans
}

func TestStatusOfRequestSpans(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		want   codes.Code
	}{
		"a successful response":          {200, codes.Unset},
		"an error of the client":         {404, codes.Unset},
		"an error of the function":       {500, codes.Error},
		"a connection that has been cut": {0, codes.Error},
	} {
		told, spans := recording()
		_, end := Begin(httptest.NewRequestWithContext(told.In(t.Context()), "GET", "/files/1", nil), false)
		end(c.status)
		if got := spans.GetSpans(); len(got) != 1 || got[0].Name != "GET /files/*" || got[0].Status.Code != c.want {
			t.Errorf("%s: got spans %v, want one with the name GET /files/* and the status %v", name, got, c.want)
		}
	}
}

// A client that is not trusted must not decide to which trace a request belongs, and whether the request is recorded.
func TestTraceOfRequestSpans(t *testing.T) {
	sent := trace.SpanContextFromContext(w3c.Extract(t.Context(), propagation.MapCarrier{traceparent: parent}))
	ignored := strings.TrimSuffix(parent, "01") + "00"
	for name, c := range map[string]struct {
		traceparent    string
		public         bool
		spans          int
		joined, linked bool // whether the span is in the client's trace, and has a link to it
	}{
		"trusted, recorded":     {parent, false, 1, true, false},
		"trusted, not recorded": {ignored, false, 0, false, false},
		"public, recorded":      {parent, true, 1, false, true},
		"public, not recorded":  {ignored, true, 1, false, true},
		"public, malformed":     {"00-x", true, 1, false, false},
		"public, no trace":      {"", true, 1, false, false},
	} {
		told, spans := recording()
		r := httptest.NewRequestWithContext(told.In(t.Context()), "GET", "/files/1", nil)
		r.Header.Set("Traceparent", c.traceparent)
		_, end := Begin(r, c.public)
		end(200)
		got := spans.GetSpans()
		if len(got) != c.spans {
			t.Fatalf("%s: got %d spans, want %d", name, len(got), c.spans)
		}
		if c.spans == 0 {
			continue
		}
		if joined := got[0].SpanContext.TraceID() == sent.TraceID(); joined != c.joined || got[0].Parent.IsValid() != c.joined {
			t.Errorf("%s: got span %v, want a span of the client's trace: %t", name, got[0].SpanContext, c.joined)
		}
		links := got[0].Links
		if linked := len(links) == 1 && links[0].SpanContext.TraceID() == sent.TraceID(); linked != c.linked || !linked && len(links) > 0 {
			t.Errorf("%s: got links %v, want a link to the client's span: %t", name, links, c.linked)
		}
	}
}

// An event can be published long after its creation. The span then belongs to the trace in which the event was created.
func TestSpansOfPublishing(t *testing.T) {
	const older = "00-fff7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
	for name, c := range map[string]struct {
		extensions map[string]any
		parent     string // the traceparent of the span's parent
		linked     bool   // whether the span has a link to the current span
	}{
		"an event of the current span":         {map[string]any{"traceparent": parent}, parent, false},
		"an event of an older trace":           {map[string]any{"traceparent": older}, older, true},
		"an event of an older span":            {map[string]any{"traceparent": parent[:36] + older[36:]}, parent[:36] + older[36:], true},
		"an event without a trace":             {nil, parent, false},
		"an event with a malformed trace":      {map[string]any{"traceparent": "00-x"}, parent, false},
		"an event whose trace is not a string": {map[string]any{"traceparent": 7}, parent, false},
	} {
		for outcome, want := range map[error]codes.Code{nil: codes.Unset, errors.New("no confirm"): codes.Error} {
			told, spans := recording()
			ctx := w3c.Extract(told.In(t.Context()), propagation.MapCarrier{traceparent: parent})
			_, end := Publishing(ctx, "rabbitmq", c.extensions)
			end(outcome)
			got := spans.GetSpans()
			if len(got) != 1 {
				t.Fatalf("%s: got %d spans, want 1", name, len(got))
			}
			carrier := propagation.MapCarrier{}
			w3c.Inject(trace.ContextWithSpanContext(t.Context(), got[0].Parent), carrier)
			if carrier[traceparent] != c.parent || got[0].Status.Code != want {
				t.Errorf("%s, %v: got parent %s and status %v, want %s and %v", name, outcome, carrier[traceparent], got[0].Status.Code, c.parent, want)
			}
			links := got[0].Links
			if linked := len(links) == 1 && links[0].SpanContext.Equal(trace.SpanContextFromContext(ctx)); linked != c.linked || !linked && len(links) > 0 {
				t.Errorf("%s: got links %v, want a link to the current span: %t", name, links, c.linked)
			}
		}
	}
}

// Inject leaves the headers of a request unchanged if the context carries no trace.
func TestInjectWithoutATrace(t *testing.T) {
	header := http.Header{"Traceparent": {parent}}
	Inject(t.Context(), header)
	if got := header.Get("Traceparent"); got != parent || TraceID(t.Context()) != "" {
		t.Errorf("got traceparent %q and trace ID %q, want %q and none", got, TraceID(t.Context()), parent)
	}
}

// A collector that never responds, or cannot be reached, does not delay requests. Close returns when its context is
// done.
func TestCollectorAway(t *testing.T) {
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-release
	}))
	defer hangs.Close()
	defer close(release)
	for _, endpoint := range []string{hangs.URL, "http://127.0.0.1:1"} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
		told := newTelemetry(t, Settings{Endpoint: endpoint})
		const requests = 5 * queueSize
		for range requests { // more than the queue holds, so that the loop ends only if no request waits
			ctx, end := Begin(httptest.NewRequestWithContext(told.In(context.Background()), "GET", "/files", nil), false)
			if !trace.SpanContextFromContext(ctx).IsSampled() {
				t.Fatal("the request is not traced")
			}
			end(200)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_ = told.Close(ctx) // only has to return; an error is fine, because the spans cannot be exported
	}
}

// allocations returns how many allocations f makes. Other goroutines, such as those of a test that has ended, can
// allocate at the same time, so it returns the lowest number of several measurements.
func allocations(f func()) float64 {
	lowest := testing.AllocsPerRun(100, f)
	for range 20 {
		lowest = min(lowest, testing.AllocsPerRun(100, f))
	}
	return lowest
}

// If metrics and traces are off, a request allocates memory only for the trace ID that its log lines need. All other
// functions of this package allocate no memory.
func TestOffAllocatesNothing(t *testing.T) {
	told := newTelemetry(t, Settings{})
	for name, ctx := range map[string]context.Context{"off": told.In(t.Context()), "without": t.Context()} {
		if got := allocations(func() { tellOfWork(ctx) }); got != 0 {
			t.Errorf("%s: got %v allocations for reporting events, want 0", name, got)
		}
		r := httptest.NewRequestWithContext(ctx, "GET", "/files/1/content", nil)
		request := func() {
			_, end := Begin(r, false)
			end(200)
		}
		want := allocations(func() { trace.ContextWithSpanContext(ctx, newTrace()) })
		if got := allocations(request); got > want {
			t.Errorf("%s: got %v allocations for a request, want at most %v, as for a new trace ID", name, got, want)
		}
		r.Header.Set("Traceparent", parent)
		want = allocations(func() { w3c.Extract(ctx, propagation.HeaderCarrier(r.Header)) })
		if got := allocations(request); got > want {
			t.Errorf("%s: got %v allocations for a request with a traceparent, want at most %v, as for parsing it", name, got, want)
		}
	}
}

// BenchmarkOff measures the overhead of this package for a request that publishes an event, with telemetry off and with
// metrics only.
func BenchmarkOff(b *testing.B) {
	for name, settings := range map[string]Settings{"off": {}, "metrics": {Function: "upload", Metrics: true}} {
		b.Run(name, func(b *testing.B) {
			told, err := New(b.Context(), settings)
			if err != nil {
				b.Fatal(err)
			}
			r := httptest.NewRequestWithContext(told.In(b.Context()), "POST", "/upload", nil)
			b.ReportAllocs()
			for b.Loop() {
				ctx, end := Begin(r, false)
				_, published := Publishing(ctx, "rabbitmq", nil)
				published(nil)
				end(202)
			}
		})
	}
}
