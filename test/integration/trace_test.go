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
	login := run("login", append(tokens, key, strings.Replace(key, "GATEWAY", "SIGN_IN", 1), "MYSQL_DSN="+dsn)...)
	upload := run("upload", append(tokens, key, "MONGODB_URI="+uri, "EVENTS_URL="+proxy.through(t, broker.URL))...)
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

// traceOfRequest returns the trace ID in the gateway's log line of the request with the response got.
func (s *traced) traceOfRequest(t *testing.T, got answer) (trace string) {
	t.Helper()
	servertest.Eventually(t, servertest.Recovery, "gateway has logged the request", func() error {
		lines := s.lines(t, "gateway", map[string]string{"msg": "request", "request_id": got.header.Get("X-Request-Id")})
		if len(lines) == 0 {
			return errors.New("the log has no such line")
		}
		trace, _ = lines[0]["trace_id"].(string)
		return nil
	})
	return trace
}

// upload uploads a file. It returns the ID of the file, and the trace ID of the request.
func (s *traced) upload(t *testing.T, traceparent string, header ...string) (id, trace string) {
	t.Helper()
	got := s.ask(t, http.MethodPost, "/upload?name="+needle+".txt", traceparent, needle+" content",
		append([]string{"Content-Type", "text/x-" + needle, "Idempotency-Key", fmt.Sprintf("%q", needle+traceparent)}, header...)...)
	var file struct{ ID string }
	got.decode(t, http.StatusAccepted, &file)
	return file.ID, s.traceOfRequest(t, got)
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

// clientTrace and clientSpan are the IDs in the trace headers of the client.
const (
	clientTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpan  = "00f067aa0ba902b7"
)

// recorded and ignored are the traceparents of a client that records its trace, and of a client that does not.
const (
	recorded = "00-" + clientTrace + "-" + clientSpan + "-01"
	ignored  = "00-" + clientTrace + "-" + clientSpan + "-00"
)

// TestTrace proves that all spans of an upload, from the gateway through RabbitMQ and the real receive adapter to
// record, belong to one trace. The trace begins at the gateway, and has a link to the client's span. The client can
// choose neither the trace nor whether it is recorded. The exports contain no user input.
func TestTrace(t *testing.T) {
	collector := newCollector(t)
	s := startTraced(t, recorded, "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.url, "OTEL_BSP_SCHEDULE_DELAY=50")
	want := map[string]string{} // the trees, by trace ID
	secrets := []string{s.user}
	catalogued := func(id, trace string) {
		t.Helper()
		s.wantCatalogued(t, id)
		if got := s.traceOf(t, id); got != trace {
			t.Errorf("record cataloged file %s: got the trace %s, want %s", id, got, trace)
		}
		s.wantJoined(t, trace, "gateway", "upload", "record")
		secrets = append(secrets, id)
	}
	tree := func(link string) string {
		return "gateway: server POST /upload, 202" + link + "\n" +
			"  upload: server POST /upload, 202\n" +
			"    upload: producer publish, rabbitmq\n" +
			"    record: server POST /, 204\n"
	}
	for traceparent, link := range map[string]string{recorded: ", linked to nothing", ignored: ", linked to nothing", "": ""} {
		id, trace := s.upload(t, traceparent)
		catalogued(id, trace)
		want[trace] = tree(link)
	}

	created := s.ask(t, http.MethodPost, "/upload/tus/", "", "", "Tus-Resumable", "1.0.0", "Upload-Length", "5",
		"Upload-Metadata", "filename "+base64.StdEncoding.EncodeToString([]byte(needle)))
	id := path.Base(created.header.Get("Location"))
	patched := s.ask(t, http.MethodPatch, "/upload/tus/"+id, "", "hello", "Tus-Resumable", "1.0.0", "Upload-Offset", "0",
		"Content-Type", "application/offset+octet-stream")
	if created.status != http.StatusCreated || patched.status != http.StatusNoContent {
		t.Fatalf("tus: got %s and %s", created, patched)
	}
	catalogued(id, s.traceOfRequest(t, patched))
	want[s.traceOfRequest(t, created)] = "" +
		"gateway: server POST /upload/tus, 201\n" +
		"  upload: server POST /upload/tus, 201\n"
	want[s.traceOfRequest(t, patched)] = "" +
		"gateway: server PATCH /upload/tus/*, 204\n" +
		"  upload: server PATCH /upload/tus/*, 204\n" +
		"    upload: producer publish, rabbitmq\n" +
		"    record: server POST /, 204\n"

	// The event belongs to the trace even if sweep publishes it after the request has ended.
	s.silent.Store(true)
	_, late := s.upload(t, recorded, "Idempotency-Key", `"late"`)
	s.silent.Store(false)
	servertest.Eventually(t, servertest.Recovery, "sweep publishes the event", func() error {
		if status, got := postSweep(t, s.sweep); status != http.StatusOK || got.Published != 1 {
			return fmt.Errorf("got %d %+v", status, got)
		}
		return nil
	})
	s.wantJoined(t, late, "gateway", "upload", "record")
	want[late] = "" +
		"gateway: server POST /upload, 202, linked to nothing\n" +
		"  upload: server POST /upload, 202\n" +
		"    upload: producer publish, rabbitmq, error failed\n" +
		"    sweep: producer publish, rabbitmq, linked to sweep POST /\n" +
		"    record: server POST /, 204\n"

	// No span belongs to the client's trace.
	want[clientTrace] = ""

	compare := func() error {
		for trace, tree := range want {
			if got := collector.tree(trace, ""); got != tree {
				return fmt.Errorf("trace %s: got\n%swant\n%s", trace, got, tree)
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

// TestTraceIDWithoutCollector proves that the logs and the event of a file have the trace ID of the request even if no
// traces are exported.
func TestTraceIDWithoutCollector(t *testing.T) {
	s := startTraced(t, recorded)
	id, trace := s.upload(t, recorded)
	s.wantCatalogued(t, id)
	if got := s.traceOf(t, id); got != trace || got == clientTrace {
		t.Errorf("record cataloged file %s: got the trace %s, want %s", id, got, trace)
	}
	s.wantJoined(t, trace, "gateway", "upload", "record")
	f, err := s.files.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var event struct{ Traceparent, Tracestate string }
	if err := json.Unmarshal([]byte(f.Event), &event); err != nil || !strings.HasPrefix(event.Traceparent, "00-"+trace+"-") || event.Tracestate != "" {
		t.Errorf("event: got traceparent %q and tracestate %q (%v), want the trace %s and no tracestate of the client",
			event.Traceparent, event.Tracestate, err, trace)
	}
}
