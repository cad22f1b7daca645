package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/test/servertest"
)

// needle is a part of all user input in these tests, so that wantDiscreet can search the exports for user input.
const needle = "n33dle"

// traced is a system in which each function is a separate process, with RabbitMQ and the receive adapter between upload
// and record.
type traced struct {
	gateway, sweep string            // the URLs of these functions
	logs           map[string]string // the paths of the log files, by function
	catalogue      *catalog.Store
	files          *content.Store
	silent         atomic.Bool // if set, no event of upload reaches the broker
	bearer, user   string      // the Authorization header and the ID of the signed-in user
}

// startTraced starts a system with the given settings for each function. It signs in through the gateway with the
// traceparent signIn.
func startTraced(t *testing.T, signIn string, settings ...string) *traced {
	t.Helper()
	broker, uri := servertest.RabbitMQ(t).NewVhost(t), servertest.MongoDB(t).NewDatabase(t)
	servertest.ResetTopology(t, broker)
	s := &traced{logs: map[string]string{}, catalogue: openCatalog(t, uri)}
	var err error
	if s.files, err = content.Open(uri); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.files.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(s.files.EnsureIndexes(t.Context()), s.catalogue.EnsureIndexes(t.Context())); err != nil {
		t.Fatal(err)
	}
	run := func(name string, own ...string) (url string) {
		t.Helper()
		url, s.logs[name] = runLogged(t, name, append(own, settings...)...)
		return url
	}
	dsn := servertest.AccountsDSN(t)
	createUser(t, dsn, needle+"-ada", needle+"-lovelace")
	proxy := newWire(t, host(t, broker.URL), amqpFrames, func(m moment) bool {
		return s.silent.Load() && m == moment{"message", false, false}
	})
	_, keys := newTokenKeys(t)
	tokens := []string{"TOKEN_KEYS_FILE=" + keys, "TOKEN_SIGNING_KEY_FILE=" + filepath.Join(filepath.Dir(keys), "key.jwk"),
		"TOKEN_ISSUER=strongroom", "TOKEN_AUDIENCE=strongroom"}
	key := gatewayKey(t)
	login := run("login", append(tokens, key, "MYSQL_DSN="+dsn)...)
	upload := run("upload", append(tokens, "MONGODB_URI="+uri, "EVENTS_URL="+proxy.through(t, broker.URL))...)
	// The exporter must also use the other OTEL_EXPORTER_OTLP variables.
	record := run("record", "MONGODB_URI="+uri, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")
	s.sweep = run("sweep", "MONGODB_URI="+uri, "EVENTS_URL="+broker.URL, "PENDING_GRACE=1s", "ORPHAN_GRACE=1h")
	s.gateway = run("gateway", append(gatewaySettings(key, upload), "LOGIN_URL="+login)...)
	adapter(t, broker, record)

	var session struct {
		AccessToken string `json:"access_token"`
		User        struct{ ID string }
	}
	s.ask(t, http.MethodPost, "/session?"+needle, signIn, `{"username":"`+needle+`-ada","password":"`+needle+`-lovelace"}`,
		"Content-Type", "application/json").decode(t, http.StatusOK, &session)
	s.bearer, s.user = "Bearer "+session.AccessToken, session.User.ID
	return s
}

// ask sends a request to the gateway. An empty traceparent omits the trace headers. header contains alternating names
// and values.
func (s *traced) ask(t *testing.T, method, path, traceparent, body string, header ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if traceparent != "" {
		request.Header.Set("Traceparent", traceparent)
		request.Header.Set("Tracestate", "theirs=1")
	}
	if s.bearer != "" {
		request.Header.Set("Authorization", s.bearer)
	}
	request.Header.Set("X-Request-Id", needle)
	request.Header.Set("User-Agent", needle)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, got}
}

// upload uploads a file, which must result in the status want. It returns the ID of the file, or "" if want is not 202.
func (s *traced) upload(t *testing.T, traceparent string, want int, header ...string) string {
	t.Helper()
	got := s.ask(t, http.MethodPost, "/upload?name="+needle+".txt", traceparent, needle+" content",
		append(header, "Content-Type", "text/x-"+needle, "Idempotency-Key", fmt.Sprintf("%q", needle+traceparent))...)
	var file struct{ ID string }
	if got.decode(t, want, &file); want != http.StatusAccepted {
		return ""
	}
	return file.ID
}

// wantCatalogued waits for the catalog entry of the file with the given ID.
func (s *traced) wantCatalogued(t *testing.T, id string) {
	t.Helper()
	servertest.Eventually(t, 2*servertest.Recovery, "file "+id+" is in the catalog", func() error {
		_, err := s.catalogue.Get(t.Context(), id)
		return err
	})
}

// lines returns the log lines of a function whose members include all members of with.
func (s *traced) lines(t *testing.T, function string, with map[string]string) (found []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(s.logs[function])
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var members map[string]any
		if err := json.Unmarshal(line, &members); err != nil {
			continue // the function is still writing this line
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(with)), func(key string) bool { return members[key] != with[key] }) {
			found = append(found, members)
		}
	}
	return found
}

// wantJoined waits until each of the functions has logged a request with the given trace ID.
func (s *traced) wantJoined(t *testing.T, trace string, functions ...string) {
	t.Helper()
	for _, function := range functions {
		servertest.Eventually(t, servertest.Recovery, function+" has logged a request with the trace ID "+trace, func() error {
			if len(s.lines(t, function, map[string]string{"msg": "request", "trace_id": trace})) == 0 {
				return errors.New("the log has no such line")
			}
			return nil
		})
	}
}

// traceOf returns the trace ID in the log line with which record reports that it has cataloged a file.
func (s *traced) traceOf(t *testing.T, id string) (trace string) {
	t.Helper()
	servertest.Eventually(t, servertest.Recovery, "record has logged that it cataloged file "+id, func() error {
		lines := s.lines(t, "record", map[string]string{"msg": "cataloged file", "file": id})
		if len(lines) == 0 {
			return errors.New("the log has no such line")
		}
		trace, _ = lines[0]["trace_id"].(string)
		return nil
	})
	return trace
}

// caller is the trace context of a client: the trace ID, the ID of the client's span, and the trace flags.
type caller struct{ trace, span, flags string }

// newCaller returns the nth trace context. The flags 01 mean that the client records the trace.
func newCaller(n int, flags string) caller {
	return caller{fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", n), fmt.Sprintf("00f067aa0ba9%04x", n), flags}
}

func (c caller) traceparent() string { return "00-" + c.trace + "-" + c.span + "-" + c.flags }

// TestTrace proves that all spans of an upload, from the gateway through RabbitMQ and the real receive adapter to
// record, belong to the trace of the client. The exports contain no user input.
func TestTrace(t *testing.T) {
	collector := newCollector(t)
	signIn, whole, tus, late, hidden := newCaller(1, "01"), newCaller(2, "01"), newCaller(3, "01"), newCaller(4, "01"), newCaller(5, "00")
	s := startTraced(t, signIn.traceparent(), "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.url, "OTEL_BSP_SCHEDULE_DELAY=50")
	want := map[caller]string{signIn: "" +
		"gateway: server POST /session, 200\n" +
		"  login: server POST /login, 200\n"}
	secrets := []string{s.user}
	catalogued := func(id string, from caller) {
		t.Helper()
		s.wantCatalogued(t, id)
		if got := s.traceOf(t, id); got != from.trace {
			t.Errorf("record cataloged file %s: got the trace %s, want %s", id, got, from.trace)
		}
		s.wantJoined(t, from.trace, "gateway", "upload", "record")
		secrets = append(secrets, id)
	}

	// The client does not record this trace, so no spans are exported, but the log lines still have the trace ID. This
	// upload is the first, so that its spans would arrive before the spans of the other uploads.
	catalogued(s.upload(t, hidden.traceparent(), http.StatusAccepted), hidden)
	want[hidden] = ""

	catalogued(s.upload(t, whole.traceparent(), http.StatusAccepted), whole)
	want[whole] = "" +
		"gateway: server POST /upload, 202\n" +
		"  upload: server POST /upload, 202\n" +
		"    upload: producer publish, rabbitmq\n" +
		"    record: server POST /, 204\n"

	created := s.ask(t, http.MethodPost, "/upload/tus/", tus.traceparent(), "", "Tus-Resumable", "1.0.0", "Upload-Length", "5",
		"Upload-Metadata", "filename "+base64.StdEncoding.EncodeToString([]byte(needle)))
	id := path.Base(created.header.Get("Location"))
	patched := s.ask(t, http.MethodPatch, "/upload/tus/"+id, tus.traceparent(), "hello", "Tus-Resumable", "1.0.0", "Upload-Offset", "0",
		"Content-Type", "application/offset+octet-stream")
	if created.status != http.StatusCreated || patched.status != http.StatusNoContent {
		t.Fatalf("tus: got %s and %s", created, patched)
	}
	catalogued(id, tus)
	want[tus] = "" +
		"gateway: server POST /upload/tus, 201\n" +
		"  upload: server POST /upload/tus, 201\n" +
		"gateway: server PATCH /upload/tus/*, 204\n" +
		"  upload: server PATCH /upload/tus/*, 204\n" +
		"    upload: producer publish, rabbitmq\n" +
		"    record: server POST /, 204\n"

	// The event belongs to the trace even if sweep publishes it after the request has ended.
	s.silent.Store(true)
	s.upload(t, late.traceparent(), http.StatusAccepted)
	s.silent.Store(false)
	servertest.Eventually(t, servertest.Recovery, "sweep publishes the event", func() error {
		if status, got := postSweep(t, s.sweep); status != http.StatusOK || got.Published != 1 {
			return fmt.Errorf("got %d %+v", status, got)
		}
		return nil
	})
	s.wantJoined(t, late.trace, "gateway", "upload", "record")
	want[late] = "" +
		"gateway: server POST /upload, 202\n" +
		"  upload: server POST /upload, 202\n" +
		"    upload: producer publish, rabbitmq, error failed\n" +
		"    sweep: producer publish, rabbitmq, linked to sweep POST /\n" +
		"    record: server POST /, 204\n"

	// A request without trace context begins a new trace.
	id = s.upload(t, "", http.StatusAccepted)
	s.wantCatalogued(t, id)
	own := caller{trace: s.traceOf(t, id)}
	catalogued(id, own)
	want[own] = want[whole]

	compare := func() error {
		for from, tree := range want {
			if got := collector.tree(from.trace, from.span); got != tree {
				return fmt.Errorf("trace %s: got\n%swant\n%s", from.trace, got, tree)
			}
		}
		return nil
	}
	servertest.Eventually(t, servertest.Recovery, "the traces are complete", compare)
	s.wantDiscreet(t, collector, secrets)
}

// wantDiscreet checks that the exports contain no user input, no secrets and only the expected attributes.
func (s *traced) wantDiscreet(t *testing.T, c *collector, secrets []string) {
	t.Helper()
	spans, raw, zips := c.all()
	if zips == 0 || zips == len(spans) {
		t.Errorf("got %d compressed exports and %d spans, want compressed exports only from record", zips, len(spans))
	}
	attributes := []string{"http.request.method", "http.response.status_code", "http.route", "messaging.operation.type", "messaging.system"}
	about := []string{"service.name", "service.namespace", "telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"}
	for _, span := range spans {
		for _, a := range span.GetAttributes() {
			if !slices.Contains(attributes, a.GetKey()) {
				t.Errorf("%s: span %s has the unexpected attribute %s", span.service, span.GetName(), a)
			}
		}
		for _, a := range span.resource {
			if !slices.Contains(about, a.GetKey()) {
				t.Errorf("%s: the resource has the unexpected attribute %s", span.service, a)
			}
		}
		if len(span.GetEvents()) != 0 || text(span.resource, "service.namespace") != "strongroom" {
			t.Errorf("%s: span %s: got the events %v and the resource %v, want no events and the namespace strongroom",
				span.service, span.GetName(), span.GetEvents(), span.resource)
		}
	}
	secrets = append(secrets, needle, base64.StdEncoding.EncodeToString([]byte(needle)), servertest.SHA256([]byte(needle+" content")), s.gateway, "guest")
	secrets = append(secrets, strings.Split(strings.TrimPrefix(s.bearer, "Bearer "), ".")...)
	for _, secret := range secrets {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the exports contain %q", secret)
		}
	}
	if !bytes.Contains(raw, []byte("/upload/tus/*")) {
		t.Error("the exports do not contain /upload/tus/*, so the search for secrets does not work")
	}
}

// TestTraceIDWithoutCollector proves that the logs and the event of a file have the client's trace ID even if no traces
// are exported.
func TestTraceIDWithoutCollector(t *testing.T) {
	from := newCaller(1, "01")
	s := startTraced(t, newCaller(2, "01").traceparent())
	id := s.upload(t, from.traceparent(), http.StatusAccepted)
	s.wantCatalogued(t, id)
	if got := s.traceOf(t, id); got != from.trace {
		t.Errorf("record cataloged file %s: got the trace %s, want %s", id, got, from.trace)
	}
	s.wantJoined(t, from.trace, "gateway", "upload", "record")
	f, err := s.files.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var event struct{ Traceparent, Tracestate string }
	if err := json.Unmarshal([]byte(f.Event), &event); err != nil || event.Traceparent != from.traceparent() || event.Tracestate != "theirs=1" {
		t.Errorf("event: got traceparent %q and tracestate %q (%v), want %q and theirs=1",
			event.Traceparent, event.Tracestate, err, from.traceparent())
	}
}
