package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// helloHex and helloBase64 are the SHA-256 of "hello" in hex and in base64.
const (
	helloHex    = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	helloBase64 = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
)

// send sends a request with the access token of f. Each value in headers replaces the header with the same name. An
// empty value removes that header.
func (f *fixture) send(method, target string, body io.Reader, headers map[string]string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, target, body)
	request.Header.Set("Authorization", "Bearer "+f.bearer)
	for name, value := range headers {
		request.Header.Del(name)
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	answer := httptest.NewRecorder()
	f.handler.ServeHTTP(answer, request)
	return answer
}

// wantProblem fails the test unless the response is a problem document with the given status and problem name.
func wantProblem(t *testing.T, answer *httptest.ResponseRecorder, status int, name string) {
	t.Helper()
	var document problem.Document
	if err := json.Unmarshal(answer.Body.Bytes(), &document); err != nil || answer.Code != status ||
		document.Type != "urn:strongroom:problem:"+name || answer.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s, want %d %s", answer.Code, answer.Body, status, name)
	}
	if status == 503 && answer.Header().Get("Retry-After") == "" {
		t.Error("got no Retry-After")
	}
}

func TestUpload(t *testing.T) {
	for _, target := range []string{"/upload", "/"} {
		f := newFixture(t)
		answer := f.send("POST", target, strings.NewReader("hello"), map[string]string{
			"Content-Type":        "text/plain; charset=utf-8",
			"Content-Disposition": `attachment; filename="notes.txt"`,
			"Content-Digest":      "sha-256=:" + helloBase64 + ":",
		})
		k := f.only(t)
		want := fmt.Sprintf(`{"id":%q,"name":"notes.txt","size":5,"sha256":%q,"content_type":"text/plain; charset=utf-8","status":"stored"}`+"\n", k.ID, helloHex)
		if got := answer.Body.String(); answer.Code != 202 || got != want {
			t.Errorf("got %d %s, want 202 %s", answer.Code, got, want)
		}
		if got, want := answer.Header().Get("Location"), "/files/"+k.ID; got != want {
			t.Errorf("got Location %q, want %q", got, want)
		}
		if got := answer.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("got Cache-Control %q, want no-store", got)
		}
		if string(k.Bytes) != "hello" || k.Owner != owner || !k.HasNote {
			t.Errorf("got file %+v, want a file of user %s with its note", k, owner)
		}
		// The document of the file must contain the event that was published.
		var carried event.Event
		if err := json.Unmarshal([]byte(k.Event), &carried); err != nil {
			t.Fatal(err)
		}
		if len(f.publisher.published) != 1 {
			t.Fatalf("got %d events, want 1", len(f.publisher.published))
		}
		var data file.Info
		if err := carried.DataAs(&data); err != nil {
			t.Fatal(err)
		}
		if carried.ID() != k.ID || f.publisher.published[0].ID() != k.ID || data.SHA256 != helloHex || data.Owner != owner || !data.StoredAt.Equal(k.StoredAt) {
			t.Errorf("got event %s, published %s", carried, f.publisher.published[0])
		}
	}
}

func TestUploadTypesAndNames(t *testing.T) {
	const png = "\x89PNG\x0D\x0A\x1A\x0A"
	for name, c := range map[string]struct {
		target, body      string
		kind, disposition string
		wantName          string
		wantType          string
	}{
		"nothing declared":         {"/upload", "hello", "", "", "unnamed", "text/plain; charset=utf-8"},
		"empty file":               {"/upload", "", "", "", "unnamed", "text/plain; charset=utf-8"},
		"detected type":            {"/upload", png, "", "", "unnamed", "image/png"},
		"curl's default type":      {"/upload", png, "application/x-www-form-urlencoded", "", "unnamed", "image/png"},
		"declared type":            {"/upload", png, "application/pdf", "", "unnamed", "application/pdf"},
		"name in query":            {"/upload?name=a%2Fb%20c.txt", "hello", "text/plain", "", "b c.txt", "text/plain"},
		"header and query":         {"/upload?name=a", "hello", "text/plain", `attachment; filename=b`, "b", "text/plain"},
		"header without file name": {"/upload?name=a", "hello", "text/plain", `inline`, "a", "text/plain"},
		"extended name":            {"/upload", "hello", "text/plain", `attachment; filename="e.txt"; filename*=UTF-8''%E2%82%AC%20rates.txt`, "€ rates.txt", "text/plain"},
		"raw UTF-8":                {"/upload", "hello", "text/plain", `attachment; filename="€.txt"`, "€.txt", "text/plain"},
		"path":                     {"/upload", "hello", "text/plain", `attachment; filename="../../etc/passwd"`, "passwd", "text/plain"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer := f.send("POST", c.target, strings.NewReader(c.body), map[string]string{"Content-Type": c.kind, "Content-Disposition": c.disposition})
			if answer.Code != 202 {
				t.Fatalf("got %d %s, want 202", answer.Code, answer.Body)
			}
			if k := f.only(t); k.Name != c.wantName || k.ContentType != c.wantType || string(k.Bytes) != c.body {
				t.Errorf("got %q of type %q with %q, want %q of type %q with %q", k.Name, k.ContentType, k.Bytes, c.wantName, c.wantType, c.body)
			}
		})
	}
}

func TestUploadRefused(t *testing.T) {
	long := strings.Repeat("x", maxSize+1)
	for name, c := range map[string]struct {
		method, target string
		body           io.Reader
		headers        map[string]string
		status         int
		problem        string
		unread         bool // the body must not have been read
	}{
		"no token":                    {"POST", "/upload", strings.NewReader("x"), map[string]string{"Authorization": ""}, 401, "unauthenticated", true},
		"no such path":                {"POST", "/uploads", strings.NewReader("x"), nil, 404, "not-found", true},
		"GET":                         {"GET", "/upload", nil, nil, 405, "method-not-allowed", true},
		"PUT":                         {"PUT", "/", strings.NewReader("x"), nil, 405, "method-not-allowed", true},
		"too large, known length":     {"POST", "/upload", strings.NewReader(long), nil, 413, "too-large", true},
		"too large, unknown length":   {"POST", "/upload", io.MultiReader(strings.NewReader(long)), nil, 413, "too-large", false},
		"encoded body":                {"POST", "/upload", strings.NewReader("x"), map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type", true},
		"malformed content type":      {"POST", "/upload", strings.NewReader("x"), map[string]string{"Content-Type": "text/plain;;"}, 400, "bad-request", true},
		"long content type":           {"POST", "/upload", strings.NewReader("x"), map[string]string{"Content-Type": "text/" + strings.Repeat("x", 255)}, 400, "bad-request", true},
		"malformed disposition":       {"POST", "/upload", strings.NewReader("x"), map[string]string{"Content-Disposition": `attachment; filename="x`}, 400, "bad-request", true},
		"digest of another file":      {"POST", "/upload", strings.NewReader("hallo"), map[string]string{"Content-Digest": "sha-256=:" + helloBase64 + ":"}, 400, "digest-mismatch", false},
		"malformed digest":            {"POST", "/upload", strings.NewReader("hello"), map[string]string{"Content-Digest": "sha-256=" + helloHex}, 400, "bad-request", true},
		"name with a semicolon":       {"POST", "/upload?name=a;b.txt", strings.NewReader("x"), nil, 400, "bad-request", true},
		"name with a percent":         {"POST", "/?name=100%.txt", strings.NewReader("x"), nil, 400, "bad-request", true},
		"name twice":                  {"POST", "/upload?name=a&name=b", strings.NewReader("x"), nil, 400, "bad-request", true},
		"form with a malformed query": {"POST", "/upload?x=%", strings.NewReader("x"), map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, 400, "bad-request", true},
		"interrupted body":            {"POST", "/upload", io.MultiReader(strings.NewReader("he"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil, 400, "bad-request", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer := f.send(c.method, c.target, c.body, c.headers)
			wantProblem(t, answer, c.status, c.problem)
			f.wantCounts(t, 0, 0, 0)
			if c.unread && f.files.BytesRead() != 0 {
				t.Errorf("got %d bytes read, want none", f.files.BytesRead())
			}
			if c.status == 405 && answer.Header().Get("Allow") != "POST" {
				t.Errorf("got Allow %q, want POST", answer.Header().Get("Allow"))
			}
		})
	}
	t.Run("token without scope", func(t *testing.T) {
		f := newFixture(t)
		wantProblem(t, f.send("POST", "/upload", strings.NewReader("x"), map[string]string{"Authorization": "Bearer " + f.reader}), 403, "insufficient-scope")
	})
	t.Run("exactly the limit", func(t *testing.T) {
		f := newFixture(t)
		if answer := f.send("POST", "/upload", strings.NewReader(long[1:]), nil); answer.Code != 202 || f.only(t).Size != maxSize {
			t.Errorf("got %d %s, want 202", answer.Code, answer.Body)
		}
	})
}

// TestUploadStoreAway checks an upload during which the store fails. The note must remain if the file is possibly
// stored, so that the sweep function finds it.
func TestUploadStoreAway(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		err    error
		notes  int
	}{
		"before the commit":            {"Put", errAway, 0},
		"failed commit":                {"Commit", errAway, 0},
		"commit of an unknown outcome": {"Commit", errUnknown, 1},
		"chunk of an unknown outcome":  {"Put", errUnknown, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.files.Before = contenttest.Fail(c.err, c.method)
			answer := f.send("POST", "/upload", strings.NewReader("x"), nil)
			wantProblem(t, answer, 503, "unavailable")
			if strings.Contains(answer.Body.String(), "secret") {
				t.Errorf("got %s, which exposes the cause", answer.Body)
			}
			if got := answer.Header().Get("Location"); got != "" {
				t.Errorf("got Location %q, want none", got)
			}
			f.wantCounts(t, 0, c.notes, 0)
		})
	}
}

// TestUploadNotPublished checks that an upload succeeds if its event cannot be published. The handler must make only one
// attempt, and it must not wait longer than publishTimeout. The file must keep its note, so that the sweep function
// publishes the event later.
func TestUploadNotPublished(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(ctx context.Context) error
		took time.Duration
	}{
		"unavailable broker": {notPublished, 0},
		"any other error":    {func(context.Context) error { return errors.New("the event is invalid") }, 0},
		"slow broker":        {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, publishTimeout},
	} {
		for _, key := range []string{"", "k"} {
			t.Run(fmt.Sprintf("%s, key %q", name, key), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFixture(t)
					f.publisher.do = c.do
					start := time.Now()
					answer := f.send("POST", "/upload", strings.NewReader("hello"), map[string]string{"Idempotency-Key": key})
					if got := time.Since(start); got != c.took {
						t.Errorf("got a response after %v, want %v", got, c.took)
					}
					k := f.only(t)
					if answer.Code != 202 || answer.Header().Get("Location") != "/files/"+k.ID || !k.HasNote || string(k.Bytes) != "hello" {
						t.Errorf("got %d %s and file %+v, want 202 and a file with its note", answer.Code, answer.Body, k)
					}
					f.wantCounts(t, 1, 1, 1)
				})
			})
		}
	}
}

// TestUploadClientGone checks that a client that disconnects before the commit gets no file, and that the event is
// published if the client disconnects after the commit.
func TestUploadClientGone(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(f *fixture, disconnect func())
		files   int
	}{
		"before the claim":  {func(f *fixture, disconnect func()) { f.files.Before = during("Claim", disconnect) }, 0},
		"before the commit": {func(f *fixture, disconnect func()) { f.files.Before = during("Commit", disconnect) }, 0},
		"after the commit": {func(f *fixture, disconnect func()) {
			f.publisher.do = func(context.Context) error { disconnect(); return nil }
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.prepare(f, cancel)
			request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/upload", strings.NewReader("hello"))
			request.Header.Set("Authorization", "Bearer "+f.bearer)
			request.Header.Set("Idempotency-Key", "k")
			f.handler.ServeHTTP(httptest.NewRecorder(), request)
			f.wantCounts(t, c.files, c.files, c.files)
			if got := len(f.publisher.published); got != c.files {
				t.Errorf("got %d published events, want %d", got, c.files)
			}
		})
	}
}

func TestUploadMetrics(t *testing.T) {
	told, err := telemetry.New(t.Context(), telemetry.Settings{Function: "upload", Metrics: true})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	inner := f.handler
	f.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(w, r.WithContext(told.In(r.Context()))) })
	keyed := map[string]string{"Idempotency-Key": "k"}
	for range 2 {
		f.send("POST", "/upload", strings.NewReader("hello"), keyed)
	}
	f.send("POST", "/upload", strings.NewReader(strings.Repeat("x", maxSize+1)), nil)
	f.files.Before = contenttest.Fail(problem.Unavailable, "Put")
	f.send("POST", "/upload", strings.NewReader("hello"), nil)
	f.files.Before = nil
	complete, terminated := f.createTus(t, 6), f.createTus(t, 6)
	f.tus("PATCH", complete, strings.NewReader("hel"), piece(0))
	f.tus("PATCH", complete, strings.NewReader("lo!"), piece(3))
	f.tus("HEAD", complete, nil)
	f.tus("DELETE", terminated, nil)
	w := httptest.NewRecorder()
	told.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`strongroom_upload_bytes_total{function="upload",protocol="http"} 5`, `strongroom_upload_bytes_total{function="upload",protocol="tus"} 6`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="stored"} 1`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="replayed"} 1`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="refused"} 1`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="http",result="failed"} 1`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="tus",result="stored"} 1`,
		`strongroom_upload_duration_seconds_count{function="upload",protocol="tus",result="terminated"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("the metrics do not contain %s", want)
		}
	}
}
