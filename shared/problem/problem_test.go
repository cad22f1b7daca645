package problem

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	cause := errors.New("dial tcp 10.0.0.7:3306: connection refused")
	for name, c := range map[string]struct {
		err        error
		status     int
		body       string
		retryAfter string
	}{
		"with detail": {NotFound.With("no file %s", "x"), 404,
			`{"type":"urn:strongroom:problem:not-found","title":"There is no such resource","status":404,"detail":"no file x","instance":"r1"}`, ""},
		"cause stays inside": {Unavailable.Because(cause, "the accounts can not be reached"), 503,
			`{"type":"urn:strongroom:problem:unavailable","title":"The service can not answer right now","status":503,"detail":"the accounts can not be reached","instance":"r1"}`, "2"},
		"wrapped": {fmt.Errorf("look up ada: %w", TooManyAttempts.With("wait").RetryAfter(1500*time.Millisecond)), 429,
			`{"type":"urn:strongroom:problem:too-many-attempts","title":"Too many failed attempts","status":429,"detail":"wait","instance":"r1"}`, "2"},
		"bare kind": {fmt.Errorf("x: %w", Conflict), 409,
			`{"type":"urn:strongroom:problem:conflict","title":"The request conflicts with what is there","status":409,"instance":"r1"}`, ""},
		"unknown error": {cause, 500,
			`{"type":"urn:strongroom:problem:internal","title":"Something went wrong on our side","status":500,"instance":"r1"}`, ""},
		"deadline": {fmt.Errorf("read: %w", context.DeadlineExceeded), 503,
			`{"type":"urn:strongroom:problem:unavailable","title":"The service can not answer right now","status":503,"detail":"the request took longer than it may","instance":"r1"}`, "2"},
		"body too large, taken for broken": {BadRequest.Because(&http.MaxBytesError{Limit: 7}, "not JSON"), 413,
			`{"type":"urn:strongroom:problem:too-large","title":"The request body is too large","status":413,"detail":"the limit is 7 bytes","instance":"r1"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			answer.Header().Set("X-Request-Id", "r1")
			answer.Header().Set("Content-Length", "12")
			answer.Header().Set("ETag", `"x"`)
			HandlerFunc(func(http.ResponseWriter, *http.Request) error { return c.err }).
				ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
			if answer.Code != c.status {
				t.Errorf("got status %d, want %d", answer.Code, c.status)
			}
			if got := strings.TrimSpace(answer.Body.String()); got != c.body {
				t.Errorf("got body\n%s, want\n%s", got, c.body)
			}
			for header, want := range map[string]string{
				"Content-Type": "application/problem+json", "Cache-Control": "no-store", "Retry-After": c.retryAfter,
				"Content-Length": strconv.Itoa(answer.Body.Len()), "ETag": "",
			} {
				if got := answer.Header().Get(header); got != want {
					t.Errorf("got %s %q, want %q", header, got, want)
				}
			}
		})
	}
}

func TestErrorKeepsKindAndCause(t *testing.T) {
	err := fmt.Errorf("store: %w", Unavailable.Because(io.ErrUnexpectedEOF, "away"))
	if !errors.Is(err, Unavailable) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, NotFound) {
		t.Errorf("%v: the kind or the cause is lost", err)
	}
	if got, want := err.Error(), "store: unavailable: away: unexpected EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	shown := BadRequest.With("limit: %w", io.ErrShortBuffer)
	if got, want := shown.Error(), "bad-request: limit: short buffer"; !errors.Is(shown, io.ErrShortBuffer) || got != want {
		t.Errorf("got %q, want %q with what it wraps", got, want)
	}
}

func TestHeaderCopies(t *testing.T) {
	base := Unauthenticated.With("x").Header("A", "1")
	_ = base.Header("A", "2")
	if got := base.header.Get("A"); got != "1" {
		t.Errorf("got %q: a copy changed its original", got)
	}
}

func TestJSON(t *testing.T) {
	answer := httptest.NewRecorder()
	if err := JSON(answer, http.StatusAccepted, map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if got, want := answer.Body.String(), "{\"n\":1}\n"; answer.Code != 202 || got != want {
		t.Errorf("got %d %q, want 202 %q", answer.Code, got, want)
	}
	if !json.Valid(answer.Body.Bytes()) || answer.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got headers %v", answer.Header())
	}
	if err := JSON(httptest.NewRecorder(), 200, func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

// net/http cancels a request whose client has left, and a request whose body is late.
func TestWriteLogsTheReasonOfACancelledRequest(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	for want, err := range map[string]error{
		"client went away": BadRequest.Because(io.ErrUnexpectedEOF, "the body could not be read"),
		"request refused":  BodyTimeout.Because(os.ErrDeadlineExceeded, "send the whole body without a pause"),
	} {
		var log bytes.Buffer
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		Write(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil).WithContext(ctx), err)
		if !strings.Contains(log.String(), `"msg":"`+want+`"`) {
			t.Errorf("%v: got the log %q, want %q", err, &log, want)
		}
	}
}
