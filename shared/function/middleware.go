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
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

type contextKey struct{}

// RequestID returns the id of the request that ctx belongs to, empty outside of one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(contextKey{}).(string)
	return id
}

// requestIDs are what is accepted as X-Request-Id from outside: nothing that could forge a log line or a header.
var requestIDs = regexp.MustCompile(`^[A-Za-z0-9._~+/=:-]{1,128}$`)

// Wrap adds to handler the parts that all functions share: GET /healthz, a request ID (from X-Request-Id, or a new one), a
// trace (from traceparent, or a new one), a deadline of timeout for the whole request, one log line and one metric for each
// request, a 400 for a query string that cannot be parsed, and a problem document for a panic. A response that comes before
// the end of the request body still reaches the client.
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
			// Touches no dependency: a database that is away must not make Knative kill the pods that wait for it.
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
					// Too late for another answer: log, and cut the connection so that the client sees it is broken.
					slog.ErrorContext(ctx, "panic after the answer began", "error", err)
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

// recorder notes the status and size of an answer for the log.
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

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
