package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// tus sends a request of the tus protocol. A header with an empty value is left out.
func (f *fixture) tus(method, target string, body io.Reader, headers ...map[string]string) *httptest.ResponseRecorder {
	all := map[string]string{"Tus-Resumable": "1.0.0"}
	for _, more := range headers {
		maps.Copy(all, more)
	}
	return f.send(method, target, body, all)
}

// piece is the headers of a request with bytes.
func piece(offset int) map[string]string {
	return map[string]string{"Content-Type": "application/offset+octet-stream", "Upload-Offset": fmt.Sprint(offset)}
}

// metadata is the header with the given keys and values, in turn.
func metadata(pairs ...string) map[string]string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return map[string]string{"Upload-Metadata": strings.Join(all, ",")}
}

// createTus creates an upload and returns where it is.
func (f *fixture) createTus(t *testing.T, length int, headers ...map[string]string) string {
	t.Helper()
	answer := f.tus("POST", "/upload/tus/", nil, append(headers, map[string]string{"Upload-Length": fmt.Sprint(length)})...)
	location := answer.Header().Get("Location")
	if answer.Code != 201 || !strings.HasPrefix(location, "/upload/tus/") {
		t.Fatalf("got %d %s and Location %q, want 201 and one", answer.Code, answer.Body, location)
	}
	return location
}

// wantTus fails the test unless the answer has the given status and headers, and no body; a header that is wanted empty is
// wanted not to be there.
func wantTus(t *testing.T, answer *httptest.ResponseRecorder, status int, headers map[string]string) {
	t.Helper()
	if answer.Code != status || answer.Body.Len() != 0 {
		t.Errorf("got %d %q, want %d and nothing", answer.Code, answer.Body, status)
	}
	for name, want := range map[string]string{"Tus-Resumable": "1.0.0", "Cache-Control": "no-store"} {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	for name, want := range headers {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
}

func TestTus(t *testing.T) {
	for _, endpoint := range []string{"/upload/tus", "/upload/tus/"} {
		f := newFixture(t)
		declared := metadata("filename", "../notes Ω.txt", "filetype", "text/plain", "mood", "")
		answer := f.tus("POST", endpoint, nil, map[string]string{"Upload-Length": "11"}, declared)
		location := answer.Header().Get("Location")
		id := strings.TrimPrefix(location, "/upload/tus/")
		o := f.files.open[id]
		if o == nil {
			t.Fatalf("got %d %s and Location %q, want that of an upload", answer.Code, answer.Body, location)
		}
		expires := o.ExpiresAt.UTC().Format(http.TimeFormat)
		if left := time.Until(o.ExpiresAt); left > tusLifetime || left < tusLifetime-time.Minute {
			t.Errorf("the upload expires in %v, want %v", left, tusLifetime)
		}
		wantTus(t, answer, 201, map[string]string{"Upload-Expires": expires, "Upload-Offset": "", "Upload-Metadata": ""})
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "0", "Upload-Length": "11",
			"Upload-Metadata": declared["Upload-Metadata"], "Upload-Expires": expires, "Content-Length": ""})
		wantTus(t, f.tus("PATCH", location, strings.NewReader("hello "), piece(0)), 204, map[string]string{"Upload-Offset": "6", "Upload-Expires": expires})
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "6"})
		if len(f.files.kept) != 0 || len(f.publisher.attempts) != 0 {
			t.Error("got a file before its end")
		}
		wantTus(t, f.tus("PATCH", location, strings.NewReader("world"), piece(6)), 204, map[string]string{"Upload-Offset": "11", "Upload-Expires": ""})
		k := f.only(t)
		if k.ID != id || string(k.bytes) != "hello world" || k.Owner != owner || k.Name != "notes Ω.txt" || k.ContentType != "text/plain" || !k.published {
			t.Errorf("got file %+v", k)
		}
		if len(f.publisher.published) != 1 || f.publisher.published[0].ID() != id || f.publisher.published[0].Type() != events.TypeFileStored {
			t.Errorf("got events %v, want that of the file", f.publisher.published)
		}
		// Whoever asks later gets the same answer, and nothing is published twice.
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "11", "Upload-Length": "11", "Upload-Expires": ""})
		wantTus(t, f.tus("PATCH", location, nil, piece(11)), 204, map[string]string{"Upload-Offset": "11"})
		if len(f.publisher.attempts) != 1 {
			t.Errorf("got %d events, want one", len(f.publisher.attempts))
		}
	}
}

func TestTusCreationWithUpload(t *testing.T) {
	f := newFixture(t)
	answer := f.tus("POST", "/upload/tus/", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5"})
	wantTus(t, answer, 201, map[string]string{"Upload-Offset": "5", "Upload-Expires": "", "Location": "/upload/tus/" + f.only(t).ID})
	if k := f.only(t); string(k.bytes) != "hello" || k.Name != "unnamed" || k.ContentType != "text/plain; charset=utf-8" || !k.published {
		t.Errorf("got file %+v", k)
	}
	f = newFixture(t)
	answer = f.tus("POST", "/upload/tus/", strings.NewReader("hel"), piece(0), map[string]string{"Upload-Length": "5"})
	wantTus(t, answer, 201, map[string]string{"Upload-Offset": "3"})
	if answer.Header().Get("Upload-Expires") == "" {
		t.Error("got no Upload-Expires")
	}
	wantTus(t, f.tus("PATCH", answer.Header().Get("Location"), strings.NewReader("lo"), piece(3)), 204, map[string]string{"Upload-Offset": "5"})
	if got := string(f.only(t).bytes); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestTusEmptyFile(t *testing.T) {
	for _, headers := range []map[string]string{nil, piece(0)} {
		f := newFixture(t)
		f.createTus(t, 0, headers)
		if k := f.only(t); k.Size != 0 || !k.published {
			t.Errorf("got file %+v", k)
		}
	}
}

func TestTusOptions(t *testing.T) {
	f := newFixture(t)
	for _, target := range []string{"/upload/tus", "/upload/tus/", f.createTus(t, 5), "/upload/tus/0190"} {
		for _, bearer := range []string{"", "Bearer " + f.bearer, "Bearer " + f.stranger} {
			answer := f.send("OPTIONS", target, nil, map[string]string{"Authorization": bearer})
			wantTus(t, answer, 200, map[string]string{"Tus-Version": "1.0.0", "Tus-Max-Size": fmt.Sprint(maxSize),
				"Tus-Extension":          "creation,creation-with-upload,termination,checksum,expiration",
				"Tus-Checksum-Algorithm": "sha1,sha256,sha512", "Upload-Expires": "", "Access-Control-Allow-Origin": ""})
		}
	}
}

func TestTusRefusesQueriesThatCannotBeParsed(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	for method, target := range map[string]string{"OPTIONS": "/upload/tus/", "POST": "/upload/tus/", "HEAD": location, "PATCH": location, "DELETE": location} {
		wantProblem(t, f.tus(method, target+"?x=%", nil, map[string]string{"Upload-Length": "5"}), 400, "bad-request")
	}
	if len(f.files.open) != 1 {
		t.Errorf("got %d uploads, want the one that was created before", len(f.files.open))
	}
}

func TestTusTermination(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	wantTus(t, f.tus("DELETE", location, nil), 204, map[string]string{"Upload-Expires": ""})
	if len(f.files.open) != 0 {
		t.Error("the upload is still there")
	}
	for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
		wantProblem(t, f.tus(method, location, strings.NewReader("hello"), piece(0)), 404, "not-found")
	}
	location = f.createTus(t, 0)
	wantProblem(t, f.tus("DELETE", location, nil), 409, "conflict")
	if k := f.only(t); !k.published {
		t.Errorf("got file %+v", k)
	}
}

func TestTusExpiration(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	f.files.open[location[len("/upload/tus/"):]].ExpiresAt = time.Now().Add(-time.Second)
	for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
		wantProblem(t, f.tus(method, location, strings.NewReader("hello"), piece(0)), 404, "not-found")
	}
}

func TestTusChecksum(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 10)
	offset := 0
	for _, good := range []string{
		"sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=", // of "hello"
		"sha256 " + helloBase64,
	} {
		wrong := f.tus("PATCH", location, strings.NewReader("hullo"), piece(offset), map[string]string{"Upload-Checksum": good})
		wantProblem(t, wrong, 460, "checksum-mismatch")
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": fmt.Sprint(offset)})
		offset += 5
		right := f.tus("PATCH", location, strings.NewReader("hello"), piece(offset-5), map[string]string{"Upload-Checksum": good})
		wantTus(t, right, 204, map[string]string{"Upload-Offset": fmt.Sprint(offset)})
	}
	if k := f.only(t); string(k.bytes) != "hellohello" || !k.published {
		t.Errorf("got file %+v", k)
	}
	// With the creation too; and nothing stays of one that failed.
	f = newFixture(t)
	for sum, want := range map[string]int{"sha256 " + helloBase64: 201, "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=": 460} {
		answer := f.tus("POST", "/upload/tus", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5", "Upload-Checksum": sum})
		if answer.Code != want {
			t.Errorf("%s: got %d %s, want %d", sum, answer.Code, answer.Body, want)
		}
	}
	if f.only(t); len(f.files.open) != 0 {
		t.Errorf("got %d open uploads, want none", len(f.files.open))
	}
}

func TestTusRefused(t *testing.T) {
	const new, there = "/upload/tus/", "there" // an upload of 5 bytes, of which 2 are there
	unavailable := problem.Unavailable.With("away")
	for name, c := range map[string]struct {
		prepare        func(f *fixture)
		method, target string
		body           io.Reader
		headers        map[string]string
		status         int
		problem        string
	}{
		"creation without a version":               {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Tus-Resumable": ""}, 412, "unsupported-tus-version"},
		"piece with another version":               {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Tus-Resumable": "0.2.2"}, 412, "unsupported-tus-version"},
		"termination without a version":            {nil, "DELETE", there, nil, map[string]string{"Tus-Resumable": ""}, 412, "unsupported-tus-version"},
		"no length":                                {nil, "POST", new, nil, nil, 400, "bad-request"},
		"length that is no number":                 {nil, "POST", new, nil, map[string]string{"Upload-Length": "5x"}, 400, "bad-request"},
		"negative length":                          {nil, "POST", new, nil, map[string]string{"Upload-Length": "-1"}, 400, "bad-request"},
		"length to come":                           {nil, "POST", new, nil, map[string]string{"Upload-Defer-Length": "1"}, 400, "bad-request"},
		"too large":                                {nil, "POST", new, nil, map[string]string{"Upload-Length": fmt.Sprint(maxSize + 1)}, 413, "too-large"},
		"over the quota":                           {func(f *fixture) { f.limit(t, 9) }, "POST", new, nil, map[string]string{"Upload-Length": "5"}, 507, "quota-exceeded"},
		"part of another":                          {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Concat": "partial"}, 400, "bad-request"},
		"no base64":                                {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Metadata": "name %"}, 400, "bad-request"},
		"key twice":                                {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Metadata": "name YQ==,name YQ=="}, 400, "bad-request"},
		"no type":                                  {nil, "POST", new, nil, withLength(metadata("type", "text/\n")), 400, "bad-request"},
		"much metadata":                            {nil, "POST", new, nil, withLength(metadata("name", strings.Repeat("x", maxMetadata))), 400, "bad-request"},
		"unknown checksum":                         {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Checksum": "md5 XUFAKrxLKna5cZ2REBfFkg=="}, 400, "bad-request"},
		"broker away":                              {func(f *fixture) { f.publisher.notReady = unavailable }, "POST", new, nil, map[string]string{"Upload-Length": "5"}, 503, "unavailable"},
		"store away at the creation":               {func(f *fixture) { f.files.away = unavailable }, "POST", new, nil, map[string]string{"Upload-Length": "5"}, 503, "unavailable"},
		"store away at a piece":                    {func(f *fixture) { f.files.putErr = unavailable }, "PATCH", there, strings.NewReader("llo"), nil, 503, "unavailable"},
		"store away at a termination":              {func(f *fixture) { f.files.away = unavailable }, "DELETE", there, nil, nil, 503, "unavailable"},
		"store away at a question":                 {func(f *fixture) { f.files.away = unavailable }, "HEAD", there, nil, nil, 423, "locked"},
		"encoded":                                  {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"creation, encoded":                        {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"termination, encoded":                     {nil, "DELETE", there, nil, map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"question, encoded":                        {nil, "HEAD", there, nil, map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"blank token":                              {nil, "HEAD", there, nil, map[string]string{"Authorization": "Bearer "}, 400, "bad-request"},
		"blank token at a termination":             {nil, "DELETE", there, nil, map[string]string{"Authorization": "Bearer "}, 400, "bad-request"},
		"another type":                             {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Type": "text/plain"}, 415, "unsupported-media-type"},
		"no type of the piece":                     {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Type": ""}, 415, "unsupported-media-type"},
		"no offset":                                {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": ""}, 400, "bad-request"},
		"negative offset":                          {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "-2"}, 400, "bad-request"},
		"lower offset":                             {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "1"}, 409, "conflict"},
		"higher offset":                            {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "3"}, 409, "conflict"},
		"length again":                             {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Length": "5"}, 400, "bad-request"},
		"too long a piece":                         {nil, "PATCH", there, strings.NewReader("lloo"), nil, 413, "too-large"},
		"too long a piece, of unknown length":      {nil, "PATCH", there, io.MultiReader(strings.NewReader("llo"), strings.NewReader("o")), nil, 413, "too-large"},
		"piece that breaks off":                    {nil, "PATCH", there, io.MultiReader(strings.NewReader("l"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil, 400, "bad-request"},
		"checksum of a piece without an algorithm": {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Checksum": helloBase64}, 400, "bad-request"},
		"checksum of another length":               {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Checksum": "sha1 " + helloBase64}, 400, "bad-request"},
		"download":                                 {nil, "GET", there, nil, nil, 405, "method-not-allowed"},
		"PUT":                                      {nil, "PUT", there, strings.NewReader("llo"), nil, 405, "method-not-allowed"},
		"POST to an upload":                        {nil, "POST", there, nil, map[string]string{"Upload-Length": "5"}, 405, "method-not-allowed"},
		"GET":                                      {nil, "GET", new, nil, nil, 405, "method-not-allowed"},
		"no upload":                                {nil, "HEAD", "/upload/tus/0190a1b2-0000-7000-8000-000000000000", nil, nil, 404, "not-found"},
		"below an upload":                          {nil, "HEAD", "/upload/tus/0190/x", nil, nil, 404, "not-found"},
		"beside":                                   {nil, "POST", "/upload/tusk", nil, map[string]string{"Upload-Length": "5"}, 404, "not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			location := f.createTus(t, 5)
			f.tus("PATCH", location, strings.NewReader("he"), piece(0))
			if c.prepare != nil {
				c.prepare(f)
			}
			headers := map[string]string{}
			target := c.target
			if target == there {
				target = location
			}
			if c.method == "PATCH" {
				headers = piece(2)
			}
			answer := f.tus(c.method, target, c.body, headers, c.headers)
			wantProblem(t, answer, c.status, c.problem)
			if got := answer.Header().Get("Tus-Resumable"); got != "1.0.0" && c.target != "/upload/tusk" {
				t.Errorf("got Tus-Resumable %q", got)
			}
			for header, status := range map[string]int{"Tus-Version": 412, "Retry-After": 423, "Allow": 405} {
				if c.status == status && answer.Header().Get(header) == "" {
					t.Errorf("got no %s", header)
				}
			}
			if len(f.files.kept) != 0 || len(f.files.open) != 1 || len(f.publisher.attempts) != 0 {
				t.Errorf("got %d files, %d uploads and %d events", len(f.files.kept), len(f.files.open), len(f.publisher.attempts))
			}
			want := "2"
			if name == "piece that breaks off" {
				want = "3" // all others leave all as it was
			}
			f.files.away = nil
			wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": want})
		})
	}
}

// withLength adds a length to the headers of a creation.
func withLength(headers map[string]string) map[string]string {
	headers["Upload-Length"] = "5"
	return headers
}

func TestTusOnlyForItsOwner(t *testing.T) {
	f := newFixture(t)
	location, complete := f.createTus(t, 5), f.createTus(t, 0)
	for _, target := range []string{location, complete} {
		for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
			for bearer, want := range map[string]struct {
				status  int
				problem string
			}{
				"":                     {401, "unauthenticated"},
				"Bearer " + f.reader:   {403, "insufficient-scope"},
				"Bearer " + f.stranger: {404, "not-found"},
			} {
				for _, override := range []string{"", method} {
					sent := method
					if override != "" {
						sent = "POST"
					}
					answer := f.tus(sent, target, strings.NewReader("hullo"), piece(0), map[string]string{"Authorization": bearer, "X-HTTP-Method-Override": override})
					wantProblem(t, answer, want.status, want.problem)
					if challenge := answer.Header().Get("WWW-Authenticate"); (challenge == "") != (want.status == 404) {
						t.Errorf("%d: got the challenge %q", want.status, challenge)
					}
				}
			}
		}
	}
	wantProblem(t, f.tus("POST", "/upload/tus", nil, map[string]string{"Upload-Length": "5", "Authorization": ""}), 401, "unauthenticated")
	wantProblem(t, f.tus("POST", "/upload/tus", nil, map[string]string{"Upload-Length": "5", "Authorization": "Bearer " + f.reader}), 403, "insufficient-scope")
	wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "0"})
	wantTus(t, f.tus("HEAD", complete, nil), 200, map[string]string{"Upload-Offset": "0"})
}

func TestTusMethodOverride(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	wantTus(t, f.tus("POST", location, strings.NewReader("hel"), piece(0), map[string]string{"X-HTTP-Method-Override": "PATCH"}), 204, map[string]string{"Upload-Offset": "3"})
	wantTus(t, f.tus("POST", location, nil, map[string]string{"X-HTTP-Method-Override": "DELETE"}), 204, nil)
	if len(f.files.open) != 0 {
		t.Error("the upload is still there")
	}
}

// Another writer that is faster: this one is told to ask for the offset.
func TestTusOvertaken(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	f.files.whilePut = func() {
		f.files.whilePut = nil
		wantTus(t, f.tus("PATCH", location, strings.NewReader("hello"), piece(0)), 204, map[string]string{"Upload-Offset": "5"})
	}
	wantProblem(t, f.tus("PATCH", location, strings.NewReader("HELLO"), piece(0)), 409, "conflict")
	if k := f.only(t); string(k.bytes) != "hello" || len(f.publisher.published) != 1 {
		t.Errorf("got %q and %d events", k.bytes, len(f.publisher.published))
	}
}

// A file whose event can not be published is not lost and not acknowledged: whoever asks next publishes it.
func TestTusPublishLater(t *testing.T) {
	away := problem.Unavailable.With("the broker is away")
	for name, again := range map[string]func(f *fixture, location string) *httptest.ResponseRecorder{
		"asks": func(f *fixture, location string) *httptest.ResponseRecorder { return f.tus("HEAD", location, nil) },
		"sends": func(f *fixture, location string) *httptest.ResponseRecorder {
			return f.tus("PATCH", location, nil, piece(5))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			location := f.createTus(t, 5)
			for range 2 * publishAttempts {
				f.publisher.errs = append(f.publisher.errs, away)
			}
			wantProblem(t, f.tus("PATCH", location, strings.NewReader("hello"), piece(0)), 503, "unavailable")
			if k := f.only(t); k.published {
				t.Error("the file counts as published")
			}
			// tus-js-client takes anything else for the end of the upload.
			wantProblem(t, f.tus("HEAD", location, nil), 423, "locked")
			answer := again(f, location)
			if answer.Code/100 != 2 || answer.Header().Get("Upload-Offset") != "5" {
				t.Errorf("got %d %s with offset %s, want success with 5", answer.Code, answer.Body, answer.Header().Get("Upload-Offset"))
			}
			if k := f.only(t); !k.published || len(f.publisher.published) != 1 || f.publisher.published[0].ID() != k.ID {
				t.Errorf("got file %+v and events %v", k, f.publisher.published)
			}
		})
	}
}

// The function was killed with all bytes there, before it made a file of them.
func TestTusFinishLater(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	f.files.open[location[len("/upload/tus/"):]].bytes = []byte("hello")
	wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "5"})
	if k := f.only(t); !k.published || len(f.publisher.published) != 1 {
		t.Errorf("got file %+v and %d events", k, len(f.publisher.published))
	}
	wantProblem(t, f.tus("PATCH", location, strings.NewReader("more"), piece(5)), 413, "too-large")
}

// A creation that fails leaves nothing, since nobody was told where it is: unless its event may be out.
func TestTusCreationFails(t *testing.T) {
	unknown := fmt.Errorf("%w: %w", problem.Unavailable, events.ErrUnknown)
	for name, c := range map[string]struct {
		prepare func(f *fixture)
		body    io.Reader
		status  int
		files   int
	}{
		"event not published": {func(f *fixture) {
			f.publisher.errs = []error{problem.Unavailable, problem.Unavailable, problem.Unavailable}
		}, strings.NewReader("hello"), 503, 0},
		"event may be published": {func(f *fixture) { f.publisher.errs = []error{unknown, unknown, unknown} }, strings.NewReader("hello"), 503, 1},
		"body that breaks off":   {func(*fixture) {}, io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(io.ErrUnexpectedEOF)), 400, 0},
		"body that is too long":  {func(*fixture) {}, strings.NewReader("hello!"), 413, 0},
		"quota taken meanwhile": {func(f *fixture) {
			f.limit(t, 5)
			f.publisher.ready = func() { f.createTus(t, 5) } // after the first look at the quota
		}, nil, 507, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.prepare(f)
			answer := f.tus("POST", "/upload/tus", c.body, piece(0), map[string]string{"Upload-Length": "5"})
			if answer.Code != c.status || answer.Header().Get("Location") != "" {
				t.Errorf("got %d %s with Location %q, want %d and none", answer.Code, answer.Body, answer.Header().Get("Location"), c.status)
			}
			if len(f.files.kept) != c.files || (len(f.files.open) != 0) != (name == "quota taken meanwhile") {
				t.Errorf("got %d files and %d uploads, want %d files", len(f.files.kept), len(f.files.open), c.files)
			}
		})
	}
}
