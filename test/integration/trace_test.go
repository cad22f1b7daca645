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
)

// needle is part of all that a user says in these tests.
const needle = "n33dle"

// traced is a system whose every part is a process of its own, with RabbitMQ and the receive adapter between upload and
// record.
type traced struct {
	gateway, sweep string            // their addresses
	logs           map[string]string // the files with what the functions log
	catalogue      *catalog.Store
	files          *content.Store
	silent         atomic.Bool // no event reaches the broker
	bearer, user   string      // the token and the id of who is signed in
}

// startTraced starts one with the given settings for each function, and signs in through the gateway in the trace signIn.
func startTraced(t *testing.T, signIn string, settings ...string) *traced {
	t.Helper()
	broker, uri := sharedRabbitMQ(t).newVhost(t), sharedMongoDB(t).newDatabase(t)
	topology(t, broker)
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
	dsn := accountsDB(t)
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
	// The exporter heeds the other variables, too.
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

// ask sends a request to the gateway in the given trace, which is a traceparent or empty. header is names and values in turn.
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

// upload hands in a file and returns its id, or "" if want, the status, is no success.
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

// wantCatalogued waits for the entry of the file with the given id.
func (s *traced) wantCatalogued(t *testing.T, id string) {
	t.Helper()
	eventually(t, 2*recovery, "the catalogue entry of "+id, func() error {
		_, err := s.catalogue.Get(t.Context(), id)
		return err
	})
}

// lines returns what a function has logged with the given values.
func (s *traced) lines(t *testing.T, function string, with map[string]string) (found []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(s.logs[function])
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var members map[string]any
		if err := json.Unmarshal(line, &members); err != nil {
			continue // one that is being written
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(with)), func(key string) bool { return members[key] != with[key] }) {
			found = append(found, members)
		}
	}
	return found
}

// wantJoined waits until each of the functions has logged a request in the trace with the given id.
func (s *traced) wantJoined(t *testing.T, trace string, functions ...string) {
	t.Helper()
	for _, function := range functions {
		eventually(t, recovery, function+" logs its request in trace "+trace, func() error {
			if len(s.lines(t, function, map[string]string{"msg": "request", "trace_id": trace})) == 0 {
				return errors.New("there is no such line")
			}
			return nil
		})
	}
}

// traceOf returns the id of the trace in which record has catalogued a file, as its log tells.
func (s *traced) traceOf(t *testing.T, id string) (trace string) {
	t.Helper()
	eventually(t, recovery, "record logs that it has catalogued "+id, func() error {
		lines := s.lines(t, "record", map[string]string{"msg": "catalogued", "file": id})
		if len(lines) == 0 {
			return errors.New("there is no such line")
		}
		trace, _ = lines[0]["trace_id"].(string)
		return nil
	})
	return trace
}

// caller is a trace that somebody outside has begun, with the span that called.
type caller struct{ trace, span, flags string }

func newCaller(n int, flags string) caller {
	return caller{fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", n), fmt.Sprintf("00f067aa0ba9%04x", n), flags}
}

func (c caller) traceparent() string { return "00-" + c.trace + "-" + c.span + "-" + c.flags }

// TestTrace follows files from the gateway through RabbitMQ and the real receive adapter into the catalogue.
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
			t.Errorf("%s was catalogued in trace %s, want %s", id, got, from.trace)
		}
		s.wantJoined(t, from.trace, "gateway", "upload", "record")
		secrets = append(secrets, id)
	}

	// Nobody is told of what the caller does not want recorded, but the lines of the logs join. It is the first, so that it would
	// be there before the others if it came.
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

	// An event that sweep publishes when the request is long over is still part of the trace.
	s.silent.Store(true)
	s.upload(t, late.traceparent(), http.StatusServiceUnavailable)
	s.silent.Store(false)
	eventually(t, recovery, "sweep publishes the event", func() error {
		if status, got := postSweep(t, s.sweep); status != http.StatusOK || got.Published != 1 {
			return fmt.Errorf("got %d %+v", status, got)
		}
		return nil
	})
	s.wantJoined(t, late.trace, "gateway", "upload", "record")
	want[late] = "" +
		"gateway: server POST /upload, 503, error\n" +
		"  upload: server POST /upload, 503, error\n" +
		strings.Repeat("    upload: producer publish, rabbitmq, error unknown\n", 3) +
		"    sweep: producer publish, rabbitmq, linked to sweep POST /\n" +
		"    record: server POST /, 204\n"

	// Who begins no trace gets a new one.
	id = s.upload(t, "", http.StatusAccepted)
	s.wantCatalogued(t, id)
	own := caller{trace: s.traceOf(t, id)}
	catalogued(id, own)
	want[own] = want[whole]

	compare := func() error {
		for from, tree := range want {
			if got := collector.tree(from.trace, from.span); got != tree {
				return fmt.Errorf("trace %s is\n%swant\n%s", from.trace, got, tree)
			}
		}
		return nil
	}
	eventually(t, recovery, "the traces are complete", compare)
	s.wantDiscreet(t, collector, secrets)
}

// wantDiscreet checks that nothing was exported that a user said, or that is nobody's business.
func (s *traced) wantDiscreet(t *testing.T, c *collector, secrets []string) {
	t.Helper()
	spans, raw, zips := c.all()
	if zips == 0 || zips == len(spans) {
		t.Errorf("%d exports were compressed, want those of record alone", zips)
	}
	attributes := []string{"http.request.method", "http.response.status_code", "http.route", "messaging.operation.type", "messaging.system"}
	about := []string{"service.name", "service.namespace", "telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"}
	for _, span := range spans {
		for _, a := range span.GetAttributes() {
			if !slices.Contains(attributes, a.GetKey()) {
				t.Errorf("%s: span %s has the attribute %s", span.service, span.GetName(), a)
			}
		}
		for _, a := range span.resource {
			if !slices.Contains(about, a.GetKey()) {
				t.Errorf("%s: the resource has the attribute %s", span.service, a)
			}
		}
		if len(span.GetEvents()) != 0 || text(span.resource, "service.namespace") != "strongroom" {
			t.Errorf("%s: span %s has the events %v and the resource %v", span.service, span.GetName(), span.GetEvents(), span.resource)
		}
	}
	secrets = append(secrets, needle, base64.StdEncoding.EncodeToString([]byte(needle)), sum([]byte(needle+" content")), s.gateway, "guest")
	secrets = append(secrets, strings.Split(strings.TrimPrefix(s.bearer, "Bearer "), ".")...)
	for _, secret := range secrets {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%q was exported", secret)
		}
	}
	if !bytes.Contains(raw, []byte("/upload/tus/*")) {
		t.Error("the exports can not be searched")
	}
}

// TestTraceIDWithoutCollector follows a file in the logs and in the event where nothing is recorded.
func TestTraceIDWithoutCollector(t *testing.T) {
	from := newCaller(1, "01")
	s := startTraced(t, newCaller(2, "01").traceparent())
	id := s.upload(t, from.traceparent(), http.StatusAccepted)
	s.wantCatalogued(t, id)
	if got := s.traceOf(t, id); got != from.trace {
		t.Errorf("it was catalogued in trace %s, want %s", got, from.trace)
	}
	s.wantJoined(t, from.trace, "gateway", "upload", "record")
	raw, err := s.files.Event(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var event struct{ Traceparent, Tracestate string }
	if err := json.Unmarshal(raw, &event); err != nil || event.Traceparent != from.traceparent() || event.Tracestate != "theirs=1" {
		t.Errorf("the event is in trace %q, %q (%v), want that of the caller", event.Traceparent, event.Tracestate, err)
	}
}
