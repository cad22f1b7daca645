package function

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// Wrap returns handler with the features that all functions share: the health probe /healthz, request IDs, traces, the
// given timeout, logs, and metrics. If the context of a request contains no origin, Wrap adds request.NewOrigin. Wrap
// also sends problem documents for panics and malformed query strings, and uses Linger for request bodies that the
// wrapped handler does not read.
func Wrap(handler http.Handler, timeout time.Duration) http.Handler {
	handler = refuseBadQueries(handler)
	return Linger(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		origin := request.OriginOf(r.Context())
		if origin.ID == "" {
			origin = request.NewOrigin(r)
			r = r.WithContext(request.WithOrigin(r.Context(), origin))
		}
		w.Header().Set("X-Request-Id", origin.ID)
		if r.URL.Path == "/healthz" {
			// The probe does not check dependencies. If it did, it would fail while the database is unavailable, and
			// Knative would kill the pods, although a restart would not help.
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		ctx, record := telemetry.Begin(r, origin.Public)
		client := r.Context()
		end := func(status int) {
			// net/http cancels the context if the client disconnects. Such a request is not a failure of the service.
			if (status == 0 || status >= 500) && errors.Is(client.Err(), context.Canceled) {
				status = clientDisconnected
			}
			record(status)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
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
				"bytes", rec.bytes, "duration_ms", time.Since(start).Milliseconds(),
				"user_id", origin.UserID, "address", origin.Address)
		}()
		handler.ServeHTTP(rec, r)
		if rec.status == 0 {
			rec.WriteHeader(http.StatusOK)
		}
	}))
}

// clientDisconnected is the status of a request in metrics and traces if the client disconnected before the response
// was complete. nginx uses the same number.
const clientDisconnected = 499

// queryPasser is a handler that can exempt requests from Wrap's check of the query string.
type queryPasser interface {
	// PassesQuery reports whether Wrap must skip its check of the query string in r. The check is not needed if the
	// function ignores the query string, or if another handler checks it.
	PassesQuery(r *http.Request) bool
}

// refuseBadQueries returns a handler that rejects requests with a malformed query string and passes all other
// requests to handler. A queryPasser can exempt requests from this check.
func refuseBadQueries(handler http.Handler) http.Handler {
	inner := handler
	if c, ok := handler.(closing); ok {
		inner = c.Handler
	}
	passer, _ := inner.(queryPasser)
	// Use EndSmallBodies, because functions that enable full duplex need it for every response, including this one.
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
