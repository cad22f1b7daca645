package problem

import (
	"bytes"
	"context"
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
		"with a detail": {NotFound.With("no file %s", "x"), 404,
			`{"type":"urn:strongroom:problem:not-found","title":"There is no such resource","status":404,"detail":"no file x","instance":"r1"}`, ""},
		"a cause is not shown": {Unavailable.Because(cause, "the account store is unavailable"), 503,
			`{"type":"urn:strongroom:problem:unavailable","title":"The service is temporarily unavailable","status":503,"detail":"the account store is unavailable","instance":"r1"}`, "2"},
		"a wrapped problem": {fmt.Errorf("look up ada: %w", TooManyAttempts.With("wait").RetryAfter(1500*time.Millisecond)), 429,
			`{"type":"urn:strongroom:problem:too-many-attempts","title":"Too many failed attempts","status":429,"detail":"wait","instance":"r1"}`, "2"},
		"a kind without a problem": {fmt.Errorf("x: %w", Conflict), 409,
			`{"type":"urn:strongroom:problem:conflict","title":"The request conflicts with the current state of the resource","status":409,"instance":"r1"}`, ""},
		"an unknown error": {cause, 500,
			`{"type":"urn:strongroom:problem:internal","title":"Something went wrong on our side","status":500,"instance":"r1"}`, ""},
		"a deadline": {fmt.Errorf("read: %w", context.DeadlineExceeded), 503,
			`{"type":"urn:strongroom:problem:unavailable","title":"The service is temporarily unavailable","status":503,"detail":"the request took too long","instance":"r1"}`, "2"},
		"a body too large, reported as malformed": {BadRequest.Because(&http.MaxBytesError{Limit: 7}, "not JSON"), 413,
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
			if got := Status(c.err); got != c.status {
				t.Errorf("Status: got %d, want %d", got, c.status)
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
	err := fmt.Errorf("store: %w", Unavailable.Because(io.ErrUnexpectedEOF, "the store is down"))
	if !errors.Is(err, Unavailable) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, NotFound) {
		t.Errorf("got error %v, want Unavailable and the cause in it, and not NotFound", err)
	}
	if got, want := err.Error(), "store: unavailable: the store is down: unexpected EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	shown := BadRequest.With("limit: %w", io.ErrShortBuffer)
	if got, want := shown.Error(), "bad-request: limit: short buffer"; !errors.Is(shown, io.ErrShortBuffer) || got != want {
		t.Errorf("got %q, want %q, which wraps io.ErrShortBuffer", got, want)
	}
}

func TestHeaderCopies(t *testing.T) {
	base := Unauthenticated.With("x").Header("A", "1")
	_ = base.Header("A", "2")
	if got := base.header.Get("A"); got != "1" {
		t.Errorf("got header %q in the original after a change of its copy, want 1", got)
	}
}

func TestWriteLogsTheReasonOfACancelledRequest(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	for want, err := range map[string]error{
		"client disconnected": BadRequest.Because(io.ErrUnexpectedEOF, "the body could not be read"),
		"request rejected":    BodyTimeout.Because(os.ErrDeadlineExceeded, "send the whole body without delay"),
	} {
		var log bytes.Buffer
		slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		Write(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil).WithContext(ctx), err)
		if !strings.Contains(log.String(), `"msg":"`+want+`"`) {
			t.Errorf("%v: got log %q, want message %q", err, &log, want)
		}
	}
}

// TestContentWriter checks that a problem document replaces each error response of http.ServeContent, and that all
// other responses stay the same.
func TestContentWriter(t *testing.T) {
	for name, c := range map[string]struct {
		header, value string
		status        int
		body          string
		extent        string // Content-Range
	}{
		"whole content":       {"", "", 200, "hello", ""},
		"range":               {"Range", "bytes=1-2", 206, "el", "bytes 1-2/5"},
		"not modified":        {"If-None-Match", `"x"`, 304, "", ""},
		"failed precondition": {"If-Match", `"y"`, 412, `{"type":"urn:strongroom:problem:precondition-failed",`, ""},
		"modified":            {"If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 412, `{"type":"urn:strongroom:problem:precondition-failed",`, ""},
		"range after the end": {"Range", "bytes=5-", 416, `{"type":"urn:strongroom:problem:range-not-satisfiable",`, "bytes */5"},
		"malformed range":     {"Range", "x", 416, `{"type":"urn:strongroom:problem:range-not-satisfiable",`, "bytes */5"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
			r.Header.Set(c.header, c.value)
			answer.Header().Set("ETag", `"x"`)
			http.ServeContent(ContentWriter(answer, r, 5), r, "x.txt", time.Unix(1e9, 0), strings.NewReader("hello"))
			got := answer.Body.String()
			if answer.Code != c.status || answer.Header().Get("Content-Range") != c.extent || !strings.HasPrefix(got, c.body) {
				t.Errorf("got %d %s and headers %v, want %d %s and Content-Range %q", answer.Code, got, answer.Header(), c.status, c.body, c.extent)
			}
			if refused, length := c.status > 400, answer.Header().Get("Content-Length"); refused && length != strconv.Itoa(len(got)) || !refused && got != c.body {
				t.Errorf("got %q with Content-Length %s, want %q", got, length, c.body)
			}
		})
	}
}
