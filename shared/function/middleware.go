package function

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/google/uuid"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

type contextKey struct{}

// RequestID returns the request ID in ctx, or an empty string if ctx does not belong to a request.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(contextKey{}).(string)
	return id
}

// requestIDs matches the X-Request-Id values that Wrap accepts from a client. It matches no spaces, quotes or control
// characters, so that a client cannot forge log lines or headers.
var requestIDs = regexp.MustCompile(`^[A-Za-z0-9._~+/=:-]{1,128}$`)

// Wrap returns a handler that calls handler and adds the features that all functions share:
//   - a health probe at /healthz
//   - a request ID: the client's X-Request-Id if it is valid, or else a new ID
//   - a trace: the trace in the request's traceparent header, or else a new trace
//   - a deadline, so that the whole request takes no longer than timeout
//   - a log line and metrics for each request
//   - a 400 response to a query string that cannot be parsed
//   - a problem document if handler panics
//   - the delivery of a response that begins before the end of the request body (see Linger)
func Wrap(handler http.Handler, timeout time.Duration) http.Handler {
	handler = refuseBadQueries(handler)
	return Linger(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := r.Header.Get("X-Request-Id")
		if !requestIDs.MatchString(id) {
			id = uuid.Must(uuid.NewV7()).String()
		}
		w.Header().Set("X-Request-Id", id)
		if r.URL.Path == "/healthz" {
			// The probe does not check dependencies. Otherwise, it would fail while the database is unavailable, and
			// Knative would kill the pods, although a restart would not help.
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		ctx, end := telemetry.Begin(r)
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, contextKey{}, id), timeout)
		defer cancel()
		r = r.WithContext(ctx)
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if cause := recover(); cause != nil {
				if cause == http.ErrAbortHandler {
					end(0)
					panic(cause)
				}
				err := fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
				if rec.status != 0 {
					// The response has begun, so it is too late to send a problem document. Close the connection, so
					// that the client detects that the response is incomplete.
					slog.ErrorContext(ctx, "panic after the response began", "error", err)
					end(0)
					panic(http.ErrAbortHandler)
				}
				problem.Write(rec, r, err)
			}
			end(rec.status)
			slog.InfoContext(ctx, "request", "method", r.Method, "path", r.URL.Path, "status", rec.status,
				"bytes", rec.bytes, "duration_ms", time.Since(start).Milliseconds())
		}()
		handler.ServeHTTP(rec, r)
		if rec.status == 0 {
			rec.WriteHeader(http.StatusOK)
		}
	}))
}

// queryPasser is a handler that can exempt requests from Wrap's check of the query string.
type queryPasser interface {
	// PassesQuery reports whether Wrap must pass r to the handler without checking the query string. A handler exempts
	// a request if another handler checks the query string, or if the query string is not meant for the function.
	PassesQuery(r *http.Request) bool
}

// refuseBadQueries returns a handler that passes requests to handler and rejects every request whose query string
// cannot be parsed. If handler is a queryPasser, the requests that it exempts are not checked.
func refuseBadQueries(handler http.Handler) http.Handler {
	inner := handler
	if c, ok := handler.(closing); ok {
		inner = c.Handler
	}
	passer, _ := inner.(queryPasser)
	// Use EndSmallBodies, because some functions need it for all of their responses, including this rejection. It does
	// no harm to the other functions.
	refusal := EndSmallBodies(problem.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error { return request.CheckQuery(r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if request.CheckQuery(r) != nil && (passer == nil || !passer.PassesQuery(r)) {
			refusal.ServeHTTP(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// recorder is a ResponseWriter that records the status of the response and the size of its body, for the log.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Unwrap returns the wrapped ResponseWriter, as http.ResponseController requires.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
