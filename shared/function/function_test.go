package function

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/test/contract"
)

// api checks the responses that Wrap itself sends against docs/openapi.yaml.
var api = contract.Of("health")

// TestMain runs the test binary as a function or as a job if RUN_AS is set. The tests start the binary in that way.
func TestMain(m *testing.M) {
	switch os.Getenv("RUN_AS") {
	case "function":
		Main(setupSample)
	case "job":
		Job(func(ctx context.Context, _ sample, args []string) error {
			slog.InfoContext(ctx, "job", "args", args)
			<-ctx.Done()
			return ctx.Err()
		})
	default:
		slog.SetDefault(slog.New(slog.DiscardHandler)) // discard the log line of each request
		os.Exit(api.Run(m))
	}
}

type sample struct {
	Secret string        `env:"SAMPLE_SECRET,required,notEmpty"`
	Wait   time.Duration `env:"SAMPLE_WAIT" envDefault:"1s"`
}

type sampleHandler struct{ http.Handler }

func (sampleHandler) Close() error {
	slog.Info("closed")
	return nil
}

func setupSample(ctx context.Context, cfg sample) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slog.Info("slow began")
		time.Sleep(cfg.Wait)
		if ctx.Err() != nil {
			slog.Error("the context ended before the running requests had ended")
		}
		_, _ = io.WriteString(w, "done")
	})
	return sampleHandler{mux}, nil
}

// start runs the test binary with RUN_AS=kind and the variables env. It returns the process and its log after a line
// with want has been logged.
func start(t *testing.T, kind, want string, env ...string) (*exec.Cmd, *logBuffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "one", "two")
	cmd.Env = append([]string{"RUN_AS=" + kind, "HOST=127.0.0.1", "K_SERVICE=sample", "K_REVISION=sample-00001"}, env...)
	log := &logBuffer{lines: make(chan string, 100)}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	log.await(t, want)
	return cmd, log
}

// logBuffer is a writer that sends each line of a log to the channel lines.
type logBuffer struct {
	lines   chan string
	partial []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.partial = append(b.partial, p...)
	for {
		i := bytes.IndexByte(b.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		b.lines <- string(b.partial[:i])
		b.partial = b.partial[i+1:]
	}
}

func (b *logBuffer) await(t *testing.T, want string) string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line := <-b.lines:
			if strings.Contains(line, want) {
				return line
			}
		case <-timeout:
			t.Fatalf("got no log line with %q within 20 seconds, want one", want)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestMainDrainsOnSIGTERM(t *testing.T) {
	port := strconv.Itoa(freePort(t))
	cmd, log := start(t, "function", "serving", "SAMPLE_SECRET=x", "PORT="+port)
	health, err := http.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	health.Body.Close()
	if health.StatusCode != http.StatusOK {
		t.Errorf("/healthz: got status %d, want 200", health.StatusCode)
	}
	type result struct {
		body string
		err  error
	}
	slow := make(chan result)
	go func() {
		resp, err := http.Get("http://127.0.0.1:" + port + "/slow")
		if err != nil {
			slow <- result{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		slow <- result{string(body), err}
	}()
	log.await(t, "slow began")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := <-slow; got.err != nil || got.body != "done" {
		t.Errorf("the request in flight got %q and error %v, want the response done", got.body, got.err)
	}
	line := log.await(t, `"request"`)
	var record map[string]any
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		t.Fatalf("decode the log line %s: %v", line, err)
	}
	if record["service"] != "sample" || record["revision"] != "sample-00001" || record["request_id"] == "" || record["status"] != 200.0 {
		t.Errorf("got log line %s, want the names, a request ID and status 200", line)
	}
	log.await(t, "closed")
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
}

func TestMainNamesWrongSettings(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"not set":           {nil, `\"SAMPLE_SECRET\" is not set`},
		"empty":             {[]string{"SAMPLE_SECRET="}, `\"SAMPLE_SECRET\" should not be empty`},
		"duration":          {[]string{"SAMPLE_SECRET=x", "SAMPLE_WAIT=long"}, `SAMPLE_WAIT: `},
		"port":              {[]string{"SAMPLE_SECRET=x", "PORT=many"}, `PORT: `},
		"port out of range": {[]string{"SAMPLE_SECRET=x", "PORT=-1"}, `PORT: `},
		"metrics address":   {[]string{"SAMPLE_SECRET=x", "METRICS_ADDR=9464"}, `METRICS_ADDR: `},
		"trace receiver":    {[]string{"SAMPLE_SECRET=x", "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"}, `OTEL_EXPORTER_OTLP_ENDPOINT: `},
		"log level":         {[]string{"SAMPLE_SECRET=x", "LOG_LEVEL=loud"}, `LOG_LEVEL: `},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, log := start(t, "function", "stopped", c.env...)
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("got %v, want exit code 1", err)
			}
			_ = log
		})
		t.Run(name+" names the variable", func(t *testing.T) { start(t, "function", c.want, c.env...) })
	}
}

func TestJobEndsOnSIGTERM(t *testing.T) {
	cmd, log := start(t, "job", `"args":["one","two"]`, "SAMPLE_SECRET=x")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log.await(t, "context canceled")
	if err := cmd.Wait(); err == nil {
		t.Error("got exit code 0 for a canceled job, want 1")
	}
}

func TestHealth(t *testing.T) {
	handler := api.Handler(t, Wrap(http.NotFoundHandler(), time.Minute))
	for _, method := range []string{"GET", "HEAD"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, "/healthz", nil))
		if w.Code != 200 || w.Body.String() != "ok\n" || w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s: got status %d, body %q and headers %v, want 200, ok and a request ID", method, w.Code, w.Body, w.Header())
		}
	}
}

func TestWrap(t *testing.T) {
	log := &logBuffer{lines: make(chan string, 100)}
	old := slog.Default()
	slog.SetDefault(newLogger(log, settings{}))
	defer slog.SetDefault(old)
	mux := http.NewServeMux()
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic("secret inside") })
	mux.HandleFunc("/late", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half a resp")
		_ = http.NewResponseController(w).Flush()
		panic("late")
	})
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/wait", problem.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		return r.Context().Err()
	}))
	server := httptest.NewServer(Wrap(mux, 50*time.Millisecond))
	defer server.Close()
	get := func(path, id string) (*http.Response, string, error) {
		request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Request-Id", id)
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}

	resp, body, err := get("/panic", "id-from-outside")
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Header.Get("X-Request-Id")
	if resp.StatusCode != 500 || strings.Contains(body, "secret") || !strings.Contains(body, `"instance":"`+id+`"`) {
		t.Errorf("panic: got %d %s, want a problem document without the panic value", resp.StatusCode, body)
	}
	if line := log.await(t, "secret inside"); !strings.Contains(line, "function_test.go") ||
		!strings.Contains(line, `"request_id":"`+id+`","client_request_id":"id-from-outside"`) {
		t.Errorf("panic: got log line %s, want the stack trace and both request IDs in it", line)
	}
	if _, _, err := get("/late", ""); err == nil {
		t.Error("panic during the response: got a complete response, want an error")
	}
	if _, _, err := get("/abort", ""); err == nil {
		t.Error("abort: got a response, want a closed connection")
	}
	if resp, body, err := get("/empty", ""); err != nil || resp.StatusCode != 200 || body != "" {
		t.Errorf("handler that writes nothing: got body %q and error %v, want status 200 and an empty body", body, err)
	}
	if line := log.await(t, `"path":"/empty"`); !strings.Contains(line, `"status":200`) {
		t.Errorf("handler that writes nothing: got log line %s, want status 200", line)
	}
	if resp, body, _ := get("/wait", ""); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("deadline: got %d %s, want 503 with Retry-After", resp.StatusCode, body)
	}
	for _, chosen := range []string{"", "client-1", "a b", strings.Repeat("x", 129), `"}`} {
		resp, _, _ := get("/none", chosen)
		id := resp.Header.Get("X-Request-Id")
		if id == chosen || len(id) != 36 {
			t.Errorf("request ID %q: got %q, want a new one", chosen, id)
		}
		line := log.await(t, `"request_id":"`+id)
		if kept := strings.Contains(line, `"client_request_id":"`+chosen+`"`); kept != (chosen == "client-1") {
			t.Errorf("request ID %q: got log line %s, want client_request_id only if the client's ID is valid", chosen, line)
		}
	}
}

// TestRequestLine checks that the log line of a request names who sent it.
func TestRequestLine(t *testing.T) {
	log := &logBuffer{lines: make(chan string, 100)}
	old := slog.Default()
	slog.SetDefault(newLogger(log, settings{}))
	defer slog.SetDefault(old)
	for name, c := range map[string]struct {
		origin *request.Origin // nil if the settings of the function do not identify clients
		user   string
		want   string
	}{
		"from the gateway": {&request.Origin{ID: "r1", ClientID: "c1", Address: netip.MustParseAddr("2001:db8::1")}, "u1",
			`"user_id":"u1","address":"2001:db8::1","request_id":"r1","client_request_id":"c1"`},
		"anonymous": {&request.Origin{ID: "r1", Address: netip.MustParseAddr("203.0.113.9")}, "",
			`"user_id":"","address":"203.0.113.9","request_id":"r1"`},
		"inside the cluster": {nil, "", `"user_id":"","address":"192.0.2.1","request_id":"`},
	} {
		r := httptest.NewRequest(http.MethodGet, "/files", nil)
		if c.origin != nil {
			r = r.WithContext(request.WithOrigin(r.Context(), c.origin))
		}
		Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { request.OriginOf(r.Context()).UserID = c.user }), time.Minute).
			ServeHTTP(httptest.NewRecorder(), r)
		if line := log.await(t, `"msg":"request"`); !strings.Contains(line, c.want) {
			t.Errorf("%s: got log line %s, want %s in it", name, line, c.want)
		}
	}
}

// TestNoForgedLines checks that a value from a client cannot add a line to the log.
func TestNoForgedLines(t *testing.T) {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(newLogger(&log, settings{}))
	defer slog.SetDefault(old)
	r := httptest.NewRequest(http.MethodGet, "/files%0A%7B%22msg%22:%22forged%22%7D", nil)
	Wrap(http.NotFoundHandler(), time.Minute).ServeHTTP(httptest.NewRecorder(), r)
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"path":"/files\n{\"msg\":\"forged\"}"`) {
		t.Errorf("got log %s, want one line with the path", got)
	}
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// An error of one dependency does not prevent the function from closing the other dependencies.
func TestClosing(t *testing.T) {
	var closed []string
	closer := func(name string, err error) io.Closer {
		return closerFunc(func() error {
			closed = append(closed, name)
			return err
		})
	}
	handler := Closing(http.NotFoundHandler(), closer("first", io.ErrUnexpectedEOF), closer("second", nil), closer("third", net.ErrClosed))
	err := handler.(io.Closer).Close()
	if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("got error %v, want the errors of the first and third closers", err)
	}
	if got, want := strings.Join(closed, " "), "first second third"; got != want {
		t.Errorf("got closed %q, want %q", got, want)
	}
}

// Kubernetes creates the termination log of a container. Outside of a container, leaveMessage must not create the
// file.
func TestLeaveMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination-log")
	leaveMessage(path, errors.New("PORT: invalid"))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a termination log: got error %v, want %v", err, os.ErrNotExist)
	}
	if err := os.WriteFile(path, []byte("a longer message from an earlier attempt"), 0o600); err != nil {
		t.Fatal(err)
	}
	leaveMessage(path, errors.New("PORT: invalid"))
	if got, err := os.ReadFile(path); err != nil || string(got) != "PORT: invalid\n" {
		t.Errorf("got %q and error %v, want only the message", got, err)
	}
}
