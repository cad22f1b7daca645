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
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
		got.wantFinished(t)
		for header, wanted := range map[string][]string{
			"Access-Control-Allow-Methods": {"POST", "PATCH", "HEAD", "DELETE", "PUT", "GET"},
			// What tus clients send (the protocol, and tus-js-client's checksum and override), beside ours.
			"Access-Control-Allow-Headers": {"authorization", "content-type", "content-digest", "idempotency-key", "tus-resumable", "upload-length",
				"upload-offset", "upload-metadata", "upload-defer-length", "upload-concat", "upload-checksum", "x-http-method-override", "x-request-id", "traceparent"},
			"Access-Control-Max-Age": {"7200"},
			"Vary":                   {"origin", "access-control-request-headers", "access-control-request-method"},
		} {
			value := ", " + strings.ToLower(strings.Join(got.header.Values(header), ", ")) + ","
			for _, want := range wanted {
				if !strings.Contains(value, ", "+strings.ToLower(want)+",") {
					t.Errorf("%s: %s has no %s: %s", path, header, want, value)
				}
			}
		}
		f.ask(t, http.MethodOptions, path, "Origin", "https://evil.example.com", "Access-Control-Request-Method", "POST").wantProblem(t, http.StatusForbidden, "cross-site")
	}
	if f.calls() != 0 {
		t.Errorf("%d preflights reached a function", f.calls())
	}
	// A tus client asks what the function can do.
	if got := f.ask(t, http.MethodOptions, "/upload/tus"); got.body != "upload" {
		t.Errorf("OPTIONS without an origin: %d %q", got.status, got.body)
	}
}

func TestCORSAnswers(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.answers["files /files/gone"] = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	}, friend)
	for _, path := range []string{"/files", "/files/gone"} { // an error can be read, too
		got := f.ask(t, http.MethodGet, path, "Origin", friend)
		if got.header.Get("Access-Control-Allow-Origin") != friend || !strings.Contains(got.header.Get("Vary"), "Origin") {
			t.Errorf("%s: %v", path, got.header)
		}
		exposed := ", " + got.header.Get("Access-Control-Expose-Headers") + ","
		for _, want := range []string{"Location", "Retry-After", "X-Request-Id", "Content-Disposition", "Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Expires", "Tus-Max-Size"} {
			if !strings.Contains(exposed, ", "+want+",") {
				t.Errorf("%s: %s can not be read", path, want)
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
			t.Errorf("%s: %d %v", name, got.status, got.header)
		}
	}
	// The session is for the console only.
	got := f.ask(t, http.MethodPost, "/session/refresh", "Origin", friend)
	if got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("/session/refresh: %d %v", got.status, got.header)
	}
}
