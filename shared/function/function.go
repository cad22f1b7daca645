// Package function is what every function's main calls: settings from the environment, a JSON logger, a listener with
// timeouts, a health probe, metrics and traces, request ids, panics turned into problem documents, and a graceful shutdown. And it is what
// handlers read requests with: their JSON bodies, strictly, and the address that they come from.
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
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// settings are what every function reads besides its own.
type settings struct {
	// Port to listen on, on all addresses; Knative sets it.
	Port int `env:"PORT" envDefault:"8080"`
	// Host to listen on; empty means all addresses, as the Knative runtime contract wants it.
	Host string `env:"HOST"`
	// LogLevel is debug, info, warn or error.
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"info"`
	// RequestTimeout bounds a whole request, body included; the manifest's timeoutSeconds should not be shorter.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"60s"`
	// MetricsAddr is where GET /metrics is answered, such as :9464; empty: nowhere.
	MetricsAddr string `env:"METRICS_ADDR"`
	// OTLPEndpoint and OTLPTracesEndpoint are where traces go, by OTLP over HTTP; without either there are none.
	OTLPEndpoint       string `env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	OTLPTracesEndpoint string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"`
	// Sampler and SamplerArg say which traces are recorded; OpenTelemetry reads them by itself.
	Sampler    string `env:"OTEL_TRACES_SAMPLER"`
	SamplerArg string `env:"OTEL_TRACES_SAMPLER_ARG"`
	// Service and Revision are what Knative calls the running thing; they go into every log line.
	Service  string `env:"K_SERVICE"`
	Revision string `env:"K_REVISION"`
}

const (
	// headerTimeout bounds the reading of a request's headers (slow-loris).
	headerTimeout = 10 * time.Second
	// idleTimeout closes kept-alive connections; longer than queue-proxy keeps its own.
	idleTimeout = 2 * time.Minute
	// shutdownTimeout bounds the draining after SIGTERM; queue-proxy has drained before.
	shutdownTimeout = 10 * time.Second
	// flushTimeout bounds the sending of the last spans, after that.
	flushTimeout = 3 * time.Second
	// answerTimeout is how much longer than a request an answer may take: a request that hits its deadline still has to
	// clean up and to be told so.
	answerTimeout = 35 * time.Second
	// maxHeaderBytes bounds a request's headers; an access token may take 8 KiB of them.
	maxHeaderBytes = 32 << 10
)

// Main runs a function until SIGTERM or SIGINT: it fills C from the environment by its `env` tags, lets setup build
// the handler, and serves it. The context that setup gets ends after the last request has drained; a handler that is
// an io.Closer is closed then. A wrong setting ends the process with a sentence that names the variable.
func Main[C any](setup func(ctx context.Context, cfg C) (http.Handler, error)) {
	os.Exit(run(func(ctx context.Context, base settings, stop <-chan struct{}) error {
		handler, err := configure(ctx, setup)
		if err != nil {
			return err
		}
		return serve(ctx, base, handler, stop)
	}))
}

// Job runs a task that ends by itself, such as the setup Job, with the settings, logs and signals of Main. SIGTERM
// ends its context.
func Job[C any](task func(ctx context.Context, cfg C, args []string) error) {
	os.Exit(run(func(ctx context.Context, _ settings, stop <-chan struct{}) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			<-stop
			cancel()
		}()
		var cfg C
		if err := parse(&cfg); err != nil {
			return err
		}
		return task(ctx, cfg, os.Args[1:])
	}))
}

// run calls body with a context that lives as long as it and a channel that is closed at the first SIGTERM or SIGINT,
// and returns the exit code.
func run(body func(ctx context.Context, base settings, stop <-chan struct{}) error) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals, release := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer release()
	var base settings
	err := parse(&base)
	slog.SetDefault(newLogger(os.Stderr, base))
	if err == nil {
		err = body(ctx, base, signals.Done())
	}
	if err != nil {
		slog.Error("stopped", "error", err)
		leaveMessage(terminationLog, err)
		return 1
	}
	return 0
}

// terminationLog is the file whose content Kubernetes shows as the message of a container that has ended. Outside of a
// container there is no such file.
const terminationLog = "/dev/termination-log"

// leaveMessage writes err to the termination log at path, for `kubectl describe pod`, `kn revision describe` and `make deploy`.
// It creates no file. If it cannot write, the program's log has the error all the same.
func leaveMessage(path string, err error) {
	file, openErr := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if openErr != nil {
		return
	}
	_, _ = fmt.Fprintln(file, err)
	_ = file.Close()
}

func configure[C any](ctx context.Context, setup func(context.Context, C) (http.Handler, error)) (http.Handler, error) {
	var cfg C
	if err := parse(&cfg); err != nil {
		return nil, err
	}
	handler, err := setup(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	return handler, nil
}

// parse fills cfg from the environment. The error names every variable that is missing or wrong.
func parse(cfg any) error {
	err := env.Parse(cfg)
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	for i, err := range all.Errors {
		var wrong env.ParseError
		if errors.As(err, &wrong) { // it knows the field, but whoever reads this knows the variable
			field, _ := reflect.TypeOf(cfg).Elem().FieldByName(wrong.Name)
			name, _, _ := strings.Cut(field.Tag.Get("env"), ",")
			all.Errors[i] = fmt.Errorf("%s: %w", name, wrong.Err)
		}
	}
	return fmt.Errorf("settings: %w", errors.Join(all.Errors...))
}

// serve answers requests until stop is closed, then drains.
func serve(ctx context.Context, base settings, handler http.Handler, stop <-chan struct{}) error {
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
		Handler:           Wrap(handler, base.RequestTimeout),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       base.RequestTimeout,
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
	if closer, ok := handler.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := told.Close(flush); err != nil {
		// No reason to call the end anything but orderly: all requests have been answered.
		slog.Warn("the last traces are lost", "error", err)
	}
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	slog.Info("stopped")
	return nil
}

// serveMetrics answers at address until the returned closer is closed. It is a port of its own because the other one is
// the world's.
func serveMetrics(address string, handler http.Handler) (io.Closer, error) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: headerTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	if address == "" {
		return server, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	slog.Info("serving metrics", "address", listener.Addr().String())
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("metrics are not served any more", "error", err)
		}
	}()
	return server, nil
}
