package main

import (
	"net/http"
	"strings"
	"testing"
)

const friend = "https://app.example.com"

func TestPreflight(t *testing.T) {
	f := newFixture(t, nil, "https://other.example.com", friend)
	for _, path := range []string{"/login", "/upload", "/upload/tus", "/upload/tus/1", "/files/1", "/accounts"} {
		got := f.ask(t, http.MethodOptions, path, "Origin", friend, "Access-Control-Request-Method", "PATCH",
			"Access-Control-Request-Headers", "authorization,tus-resumable,upload-offset,content-type")
		if got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != friend || got.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: got status %d and headers %v, want 204, origin %s and no credentials", path, got.status, got.header, friend)
		}
		got.wantFinished(t)
		for header, wanted := range map[string][]string{
			"Access-Control-Allow-Methods": {"POST", "PATCH", "HEAD", "DELETE", "PUT", "GET"},
			// The request headers of Strongroom and of tus clients (those of the protocol, and the checksum and the
			// method override of tus-js-client), the conditional headers of RFC 9110, Section 13.1, and the headers that
			// Dropzone, jQuery and Angular send.
			"Access-Control-Allow-Headers": {"authorization", "content-type", "content-digest", "repr-digest", "want-content-digest",
				"want-repr-digest", "content-disposition", "content-encoding", "idempotency-key", "range", "tus-resumable", "upload-length",
				"upload-offset", "upload-metadata", "upload-defer-length", "upload-concat", "upload-checksum", "x-http-method-override", "x-request-id", "traceparent", "tracestate",
				"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "cache-control", "pragma", "x-requested-with"},
			"Access-Control-Max-Age": {"7200"},
			"Vary":                   {"origin", "access-control-request-headers", "access-control-request-method"},
		} {
			value := ", " + strings.ToLower(strings.Join(got.header.Values(header), ", ")) + ","
			for _, want := range wanted {
				if !strings.Contains(value, ", "+strings.ToLower(want)+",") {
					t.Errorf("%s: got %s without %s: %s", path, header, want, value)
				}
			}
		}
		f.ask(t, http.MethodOptions, path, "Origin", "https://evil.example.com", "Access-Control-Request-Method", "POST").wantProblem(t, http.StatusForbidden, "cross-site")
	}
	if f.calls() != 0 {
		t.Errorf("got %d calls of functions, want none for a preflight request", f.calls())
	}
	// A tus client uses OPTIONS to discover what the function supports.
	if got := f.ask(t, http.MethodOptions, "/upload/tus"); got.body != "upload" {
		t.Errorf("OPTIONS without Origin: got %d %q, want the response of upload", got.status, got.body)
	}
}

func TestCORSAnswers(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["files /files/gone"] = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	}, friend)
	for _, path := range []string{"/files", "/files/gone"} { // pages may also read error responses
		got := f.ask(t, http.MethodGet, path, "Origin", friend)
		if got.header.Get("Access-Control-Allow-Origin") != friend || !strings.Contains(got.header.Get("Vary"), "Origin") {
			t.Errorf("%s: got headers %v, want origin %s and Vary with Origin", path, got.header, friend)
		}
		exposed := ", " + got.header.Get("Access-Control-Expose-Headers") + ","
		for _, want := range []string{"Location", "Retry-After", "X-Request-Id", "Content-Disposition", "Content-Digest", "Repr-Digest", "Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Expires", "Tus-Max-Size"} {
			if !strings.Contains(exposed, ", "+want+",") {
				t.Errorf("%s: got Access-Control-Expose-Headers without %s", path, want)
			}
		}
	}
	for name, origin := range map[string][]string{
		"another site": {"https://app.example.com.evil.example"}, "another scheme": {"http://app.example.com"}, "null": {"null"},
		"two": {friend, friend}, "none": nil,
	} {
		var header []string
		for _, o := range origin {
			header = append(header, "Origin", o)
		}
		got := f.ask(t, http.MethodGet, "/files", header...)
		if got.status != http.StatusOK || got.header.Get("Access-Control-Allow-Origin") != "" || got.header.Get("Vary") != "Origin" {
			t.Errorf("%s: got status %d and headers %v, want 200, no origin and Vary: Origin", name, got.status, got.header)
		}
	}
	// Only pages of this site may use the session.
	got := f.ask(t, http.MethodPost, "/session/refresh", "Origin", friend)
	if got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("/session/refresh: got status %d and headers %v, want 403 and no origin", got.status, got.header)
	}
}
