// Package function runs a Knative function. It reads the settings, serves HTTP requests, and provides timeouts,
// logs, a health probe, metrics and traces.
package function

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// settings is the configuration that all functions have in common. Each function also has a settings struct of its own.
type settings struct {
	// Port is the TCP port to listen on. Knative sets it.
	Port int `env:"PORT" envDefault:"8080"`
	// Host is the address to listen on. If Host is empty, the function listens on all addresses, as the Knative
	// runtime contract requires.
	Host string `env:"HOST"`
	// LogLevel is the lowest level of messages that the function logs: debug, info, warn or error.
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"info"`
	// RequestTimeout is how long a request may take, including its body. It should not exceed timeoutSeconds in the
	// function's manifest, because Knative would otherwise end the request first.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"60s"`
	// MetricsAddr is the address on which the function serves GET /metrics, for example :9464. If MetricsAddr is
	// empty, the function serves no metrics.
	MetricsAddr string `env:"METRICS_ADDR"`
	// OTLPEndpoint and OTLPTracesEndpoint are the URLs to which the function sends traces, using OTLP over HTTP. If
	// both are empty, the function sends no traces.
	OTLPEndpoint       string `env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	OTLPTracesEndpoint string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"`
	// Sampler and SamplerArg are declared only because a test rejects manifests that set undeclared environment
	// variables. The OpenTelemetry SDK reads these two variables itself.
	Sampler    string `env:"OTEL_TRACES_SAMPLER"`
	SamplerArg string `env:"OTEL_TRACES_SAMPLER_ARG"`
	// Service and Revision are the names of the function's Knative Service and revision. Every log line contains them.
	Service  string `env:"K_SERVICE"`
	Revision string `env:"K_REVISION"`
}

const (
	// headerTimeout is how long a client may take to send the request headers. The limit protects the function from
	// Slowloris attacks, in which clients send headers very slowly.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long an idle connection stays open. It exceeds queue-proxy's limit for idle connections, so
	// that queue-proxy never sends a request on a connection that the function is closing.
	idleTimeout = 2 * time.Minute
	// shutdownTimeout is how long the function waits for in-flight requests after SIGTERM. It can be short, because
	// Knative sends SIGTERM only after queue-proxy has waited for these requests.
	shutdownTimeout = 10 * time.Second
	// flushTimeout is how long the function may take to send the last trace spans after the in-flight requests have
	// finished.
	flushTimeout = 3 * time.Second
	// readGrace is how much longer than RequestTimeout the server waits for the client to send its request. When the
	// server stops waiting, net/http cancels the request in the same way as when the client disconnects.
	readGrace = time.Second
	// answerTimeout is how long a handler may take to clean up and send a response after RequestTimeout has expired.
	// The server's write timeout is RequestTimeout plus answerTimeout.
	answerTimeout = 35 * time.Second
	// maxHeaderBytes is the maximum size of a request's headers, in bytes. It leaves room for an access token, which
	// can be up to 8 KiB long.
	maxHeaderBytes = 32 << 10
)

// Main reads the settings of type C from the environment variables in C's `env` tags, passes the settings to setup, and
// serves the handler that setup returns. After SIGTERM or SIGINT, Main waits for in-flight requests, closes the handler
// if it is an io.Closer, and cancels the context that setup received. After an error, the exit code is 1. If C has a
// method Identify, as client.TrustSettings does, the handler that Identify returns determines the origin of each
// request.
func Main[C any](setup func(ctx context.Context, cfg C) (http.Handler, error)) {
	os.Exit(run(func(signaled context.Context, base settings, cfg C) error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		handler, err := setup(ctx, cfg)
		if err != nil {
			return fmt.Errorf("set up: %w", err)
		}
		wrapped := Wrap(handler, base.RequestTimeout)
		if settings, ok := any(cfg).(identifier); ok {
			if wrapped, err = settings.Identify(wrapped); err != nil {
				return fmt.Errorf("set up: %w", err)
			}
		}
		closer, _ := handler.(io.Closer)
		return serve(ctx, base, wrapped, closer, signaled.Done())
	}))
}

// identifier is implemented by settings that determine the origin of each request. Identify returns a handler that adds
// the origin to the context of the request, and then calls next. An error names the invalid setting.
type identifier interface {
	Identify(next http.Handler) (http.Handler, error)
}

// Closing returns handler with an added Close method, which closes each of the closers in order. Main calls this
// method when the function stops.
func Closing(handler http.Handler, closers ...io.Closer) http.Handler {
	return closing{handler, closers}
}

type closing struct {
	http.Handler
	closers []io.Closer
}

func (c closing) Close() error {
	var errs []error
	for _, closer := range c.closers {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}

// Job calls task with the command-line arguments, and exits when task returns. SIGTERM and SIGINT cancel the task's
// context. Settings, logs and exit codes work as in Main.
func Job[C any](task func(ctx context.Context, cfg C, args []string) error) {
	os.Exit(run(func(signaled context.Context, _ settings, cfg C) error { return task(signaled, cfg, os.Args[1:]) }))
}

// run reads the settings, calls body, and returns the exit code of the process: 0, or 1 after an error. SIGTERM and
// SIGINT cancel the context that body receives.
func run[C any](body func(signaled context.Context, base settings, cfg C) error) int {
	signaled, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer release()
	var base settings
	err := Parse(&base)
	slog.SetDefault(newLogger(os.Stderr, base))
	var cfg C
	if err == nil {
		err = Parse(&cfg)
	}
	if err == nil {
		err = body(signaled, base, cfg)
	}
	if err != nil {
		slog.Error("stopped", "error", err)
		leaveMessage(terminationLog, err)
		return 1
	}
	return 0
}

// terminationLog is the file from which Kubernetes reads the termination message of a container. The file exists only
// in a container.
const terminationLog = "/dev/termination-log"

// leaveMessage writes err to the termination log at path, so that commands such as `kubectl describe pod` show the
// error. leaveMessage ignores its own errors, because run also logs err.
func leaveMessage(path string, err error) {
	// Do not create the termination log, because it exists only in a container.
	file, openErr := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if openErr != nil {
		return
	}
	_, _ = fmt.Fprintln(file, err)
	_ = file.Close()
}

// Parse fills cfg, a pointer to a struct with `env` tags, from the environment. The error names every environment
// variable that is missing or invalid.
func Parse(cfg any) error {
	if err := checkFiles(cfg); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	err := env.Parse(cfg)
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	for i, err := range all.Errors {
		var wrong env.ParseError
		if errors.As(err, &wrong) {
			// A ParseError contains the name of the struct field, but an operator needs the name of the environment
			// variable.
			field, _ := reflect.TypeOf(cfg).Elem().FieldByName(wrong.Name)
			name, _, _ := strings.Cut(field.Tag.Get("env"), ",")
			all.Errors[i] = fmt.Errorf("%s: %w", name, wrong.Err)
		}
	}
	return fmt.Errorf("settings: %w", errors.Join(all.Errors...))
}

// checkFiles returns an error if a setting for the path of a file is not an absolute path, because its value can then be
// the content of the file, which no error may show. It also returns an error if the variable for the content is set. For
// example, MYSQL_DSN must not be set, because MYSQL_DSN_FILE is a setting. A function that ignored MYSQL_DSN would work
// without the store.
func checkFiles(cfg any) error {
	fields, err := env.GetFieldParams(cfg)
	errs := []error{err}
	for _, field := range fields {
		name, isFile := strings.CutSuffix(field.Key, "_FILE")
		if !isFile {
			continue
		}
		if path := os.Getenv(field.Key); path != "" && !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: want the absolute path of a file", field.Key))
		}
		if os.Getenv(name) != "" {
			errs = append(errs, fmt.Errorf("%s must not be set: set %s to the path of a file that contains the value", name, field.Key))
		}
	}
	return errors.Join(errs...)
}

// serve runs an HTTP server until the stop channel is closed. Then it waits for in-flight requests, closes closer
// unless it is nil, and sends the last trace spans.
func serve(ctx context.Context, base settings, handler http.Handler, closer io.Closer, stop <-chan struct{}) error {
	told, err := telemetry.New(ctx, telemetry.Settings{Function: base.Service, Revision: base.Revision,
		Metrics: base.MetricsAddr != "", Endpoint: base.OTLPEndpoint, TracesEndpoint: base.OTLPTracesEndpoint})
	if err != nil {
		return err
	}
	metrics, err := serveMetrics(base.MetricsAddr, told.Handler())
	if err != nil {
		return err
	}
	defer metrics.Close()
	ctx = told.In(ctx)
	listener, err := net.Listen("tcp", net.JoinHostPort(base.Host, strconv.Itoa(base.Port)))
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       base.RequestTimeout + readGrace,
		WriteTimeout:      base.RequestTimeout + answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	slog.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-stop:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = server.Shutdown(drain)
	if closer != nil {
		err = errors.Join(err, closer.Close())
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := told.Close(flush); err != nil {
		// Log the error instead of returning it, because the loss of spans does not affect any request.
		slog.Warn("could not send the last trace spans", "error", err)
	}
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	slog.Info("stopped")
	return nil
}

// serveMetrics serves handler at address until the returned closer is closed. If address is empty, serveMetrics
// starts no server.
func serveMetrics(address string, handler http.Handler) (io.Closer, error) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: headerTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	if address == "" {
		return server, nil
	}
	// Serve the metrics on a separate port, because the function's main port is public.
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	slog.Info("serving metrics", "address", listener.Addr().String())
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("stopped serving metrics", "error", err)
		}
	}()
	return server, nil
}
