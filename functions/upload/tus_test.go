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

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// tus sends a request with the header Tus-Resumable and the given headers. An empty value removes a header.
func (f *fixture) tus(method, target string, body io.Reader, headers ...map[string]string) *httptest.ResponseRecorder {
	all := map[string]string{"Tus-Resumable": "1.0.0"}
	for _, more := range headers {
		maps.Copy(all, more)
	}
	return f.send(method, target, body, all)
}

// piece returns the headers of a request that sends bytes at the given offset.
func piece(offset int) map[string]string {
	return map[string]string{"Content-Type": "application/offset+octet-stream", "Upload-Offset": fmt.Sprint(offset)}
}

// metadata returns an Upload-Metadata header with the given pairs of a key and a value.
func metadata(pairs ...string) map[string]string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return map[string]string{"Upload-Metadata": strings.Join(all, ",")}
}

// createTus creates an upload of length bytes and returns its location.
func (f *fixture) createTus(t *testing.T, length int, headers ...map[string]string) string {
	t.Helper()
	answer := f.tus("POST", "/upload/tus/", nil, append(headers, map[string]string{"Upload-Length": fmt.Sprint(length)})...)
	location := answer.Header().Get("Location")
	if answer.Code != 201 || !strings.HasPrefix(location, "/upload/tus/") {
		t.Fatalf("got %d %s and Location %q, want 201 and the location of an upload", answer.Code, answer.Body, location)
	}
	return location
}

// wantTus fails the test unless the response has the given status and headers and an empty body. An empty value in
// headers means that the response must not have that header.
func wantTus(t *testing.T, answer *httptest.ResponseRecorder, status int, headers map[string]string) {
	t.Helper()
	if answer.Code != status || answer.Body.Len() != 0 {
		t.Errorf("got %d %q, want %d and an empty body", answer.Code, answer.Body, status)
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
		o, err := f.files.Find(t.Context(), id)
		if err != nil {
			t.Fatalf("got %d %s and Location %q, want the location of an upload", answer.Code, answer.Body, location)
		}
		expires := o.ExpiresAt.UTC().Format(http.TimeFormat)
		if left := time.Until(o.ExpiresAt); left > tusLifetime || left < tusLifetime-time.Minute {
			t.Errorf("the upload expires in %v, want %v", left, tusLifetime)
		}
		wantTus(t, answer, 201, map[string]string{"Upload-Expires": expires, "Upload-Offset": "", "Upload-Metadata": ""})
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "0", "Upload-Length": "11",
			"Upload-Metadata": declared["Upload-Metadata"], "Upload-Expires": expires, "Content-Length": ""})
		wantTus(t, f.tus("HEAD", location, nil, map[string]string{"Tus-Resumable": ""}), 200, map[string]string{"Upload-Offset": "0"})
		wantTus(t, f.tus("PATCH", location, strings.NewReader("hello "), piece(0)), 204, map[string]string{"Upload-Offset": "6", "Upload-Expires": expires})
		wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "6"})
		if len(f.files.Files()) != 0 || len(f.publisher.attempts) != 0 {
			t.Error("got a file or an event before the upload was complete")
		}
		wantTus(t, f.tus("PATCH", location, strings.NewReader("world"), piece(6)), 204, map[string]string{"Upload-Offset": "11", "Upload-Expires": ""})
		k := f.only(t)
		if k.ID != id || string(k.Bytes) != "hello world" || k.Owner != owner || k.Name != "notes Ω.txt" || k.ContentType != "text/plain" || !k.HasNote {
			t.Errorf("got file %+v", k)
		}
		if len(f.publisher.published) != 1 || f.publisher.published[0].ID() != id || f.publisher.published[0].Type() != events.TypeFileStored {
			t.Errorf("got events %v, want the event of the file", f.publisher.published)
		}
		// Later requests must get the same response before and after the file has its catalog entry, and the event must
		// not be published again.
		for notes := 1; notes >= 0; notes-- {
			wantTus(t, f.tus("HEAD", location, nil), 200,
				map[string]string{"Upload-Offset": "11", "Upload-Length": "11", "Upload-Expires": "", "Upload-Metadata": ""})
			wantTus(t, f.tus("PATCH", location, nil, piece(11)), 204, map[string]string{"Upload-Offset": "11"})
			wantProblem(t, f.tus("DELETE", location, nil), 409, "conflict")
			f.wantCounts(t, 1, notes, 1)
			if err := f.files.CloseNote(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.files.MarkDeleted(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
			wantProblem(t, f.tus(method, location, nil, piece(11)), 404, "not-found")
		}
	}
}

func TestTusCreationWithUpload(t *testing.T) {
	f := newFixture(t)
	answer := f.tus("POST", "/upload/tus/", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5"})
	wantTus(t, answer, 201, map[string]string{"Upload-Offset": "5", "Upload-Expires": "", "Location": "/upload/tus/" + f.only(t).ID})
	if k := f.only(t); string(k.Bytes) != "hello" || k.Name != "unnamed" || k.ContentType != "text/plain; charset=utf-8" || !k.HasNote {
		t.Errorf("got file %+v", k)
	}
	f = newFixture(t)
	answer = f.tus("POST", "/upload/tus/", strings.NewReader("hel"), piece(0), map[string]string{"Upload-Length": "5"})
	wantTus(t, answer, 201, map[string]string{"Upload-Offset": "3"})
	if answer.Header().Get("Upload-Expires") == "" {
		t.Error("got no Upload-Expires")
	}
	wantTus(t, f.tus("PATCH", answer.Header().Get("Location"), strings.NewReader("lo"), piece(3)), 204, map[string]string{"Upload-Offset": "5"})
	if got := string(f.only(t).Bytes); got != "hello" {
		t.Errorf("got file content %q, want hello", got)
	}
}

func TestTusEmptyFile(t *testing.T) {
	for _, headers := range []map[string]string{nil, piece(0)} {
		f := newFixture(t)
		f.createTus(t, 0, headers)
		if k := f.only(t); k.Size != 0 {
			t.Errorf("got file %+v, want an empty file", k)
		}
		f.wantCounts(t, 1, 1, 1)
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
	if len(f.uploads(t)) != 1 {
		t.Errorf("got %d uploads, want only the upload that was created before", len(f.uploads(t)))
	}
}

func TestTusTermination(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	wantTus(t, f.tus("DELETE", location, nil), 204, map[string]string{"Upload-Expires": ""})
	if len(f.uploads(t)) != 0 {
		t.Error("the upload still exists")
	}
	for _, method := range []string{"HEAD", "PATCH", "DELETE"} {
		wantProblem(t, f.tus(method, location, strings.NewReader("hello"), piece(0)), 404, "not-found")
	}
	location = f.createTus(t, 0)
	wantProblem(t, f.tus("DELETE", location, nil), 409, "conflict")
	f.wantCounts(t, 1, 2, 1) // sweep removes the note of the terminated upload
}

func TestTusExpiration(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	f.files.Now = func() time.Time { return time.Now().Add(tusLifetime + time.Second) }
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
	if k := f.only(t); string(k.Bytes) != "hellohello" {
		t.Errorf("got file %+v", k)
	}
	// A creation can also have a checksum. A creation that fails must leave nothing behind.
	f = newFixture(t)
	for sum, want := range map[string]int{"sha256 " + helloBase64: 201, "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=": 460} {
		answer := f.tus("POST", "/upload/tus", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5", "Upload-Checksum": sum})
		if answer.Code != want {
			t.Errorf("%s: got %d %s, want %d", sum, answer.Code, answer.Body, want)
		}
	}
	if f.only(t); len(f.uploads(t)) != 0 {
		t.Errorf("got %d open uploads, want none", len(f.uploads(t)))
	}
}

func TestTusRefused(t *testing.T) {
	const new, there = "/upload/tus/", "there" // "there" is an upload of 5 bytes that has 2 of them
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
		"length that is not a number":              {nil, "POST", new, nil, map[string]string{"Upload-Length": "5x"}, 400, "bad-request"},
		"negative length":                          {nil, "POST", new, nil, map[string]string{"Upload-Length": "-1"}, 400, "bad-request"},
		"length with a sign":                       {nil, "POST", new, nil, map[string]string{"Upload-Length": "+5"}, 400, "bad-request"},
		"length and a deferred length":             {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Defer-Length": "1"}, 400, "bad-request"},
		"deferred length":                          {nil, "POST", new, nil, map[string]string{"Upload-Defer-Length": "1"}, 400, "bad-request"},
		"too large":                                {nil, "POST", new, nil, map[string]string{"Upload-Length": fmt.Sprint(maxSize + 1)}, 413, "too-large"},
		"over the quota":                           {func(f *fixture) { f.limit(t, 9) }, "POST", new, nil, map[string]string{"Upload-Length": "5"}, 507, "quota-exceeded"},
		"partial upload":                           {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Concat": "partial"}, 400, "bad-request"},
		"metadata that is not base64":              {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Metadata": "name %"}, 400, "bad-request"},
		"metadata with a repeated key":             {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Metadata": "name YQ==,name YQ=="}, 400, "bad-request"},
		"malformed content type of the file":       {nil, "POST", new, nil, withLength(metadata("type", "text/\n")), 400, "bad-request"},
		"metadata that is too long":                {nil, "POST", new, nil, withLength(metadata("name", strings.Repeat("x", maxMetadata))), 400, "bad-request"},
		"unsupported checksum algorithm":           {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Upload-Checksum": "md5 XUFAKrxLKna5cZ2REBfFkg=="}, 400, "bad-request"},
		"store unavailable during a creation":      {func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Create") }, "POST", new, nil, map[string]string{"Upload-Length": "5"}, 503, "unavailable"},
		"store unavailable during a piece":         {func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Append") }, "PATCH", there, strings.NewReader("llo"), nil, 503, "unavailable"},
		"store unavailable during a termination":   {func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Create", "Find") }, "DELETE", there, nil, nil, 503, "unavailable"},
		"store unavailable during a HEAD":          {func(f *fixture) { f.files.Before = contenttest.Fail(errAway, "Create", "Find") }, "HEAD", there, nil, nil, 423, "locked"},
		"encoded piece":                            {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"encoded creation":                         {nil, "POST", new, nil, map[string]string{"Upload-Length": "5", "Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"encoded termination":                      {nil, "DELETE", there, nil, map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"encoded HEAD":                             {nil, "HEAD", there, nil, map[string]string{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		"blank token":                              {nil, "HEAD", there, nil, map[string]string{"Authorization": "Bearer "}, 400, "bad-request"},
		"blank token for a termination":            {nil, "DELETE", there, nil, map[string]string{"Authorization": "Bearer "}, 400, "bad-request"},
		"piece with another content type":          {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Type": "text/plain"}, 415, "unsupported-media-type"},
		"piece without a content type":             {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Content-Type": ""}, 415, "unsupported-media-type"},
		"no offset":                                {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": ""}, 400, "bad-request"},
		"negative offset":                          {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "-2"}, 400, "bad-request"},
		"lower offset":                             {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "1"}, 409, "conflict"},
		"higher offset":                            {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Offset": "3"}, 409, "conflict"},
		"piece with a length":                      {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Length": "5"}, 400, "bad-request"},
		"piece that is too long":                   {nil, "PATCH", there, strings.NewReader("lloo"), nil, 413, "too-large"},
		"piece of unknown length that is too long": {nil, "PATCH", there, io.MultiReader(strings.NewReader("llo"), strings.NewReader("o")), nil, 413, "too-large"},
		"interrupted piece":                        {nil, "PATCH", there, io.MultiReader(strings.NewReader("l"), iotest.ErrReader(io.ErrUnexpectedEOF)), nil, 400, "bad-request"},
		"checksum without an algorithm":            {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Checksum": helloBase64}, 400, "bad-request"},
		"checksum of another length":               {nil, "PATCH", there, strings.NewReader("llo"), map[string]string{"Upload-Checksum": "sha1 " + helloBase64}, 400, "bad-request"},
		"download":                                 {nil, "GET", there, nil, nil, 405, "method-not-allowed"},
		"PUT":                                      {nil, "PUT", there, strings.NewReader("llo"), nil, 405, "method-not-allowed"},
		"POST to an upload":                        {nil, "POST", there, nil, map[string]string{"Upload-Length": "5"}, 405, "method-not-allowed"},
		"GET":                                      {nil, "GET", new, nil, nil, 405, "method-not-allowed"},
		"upload that does not exist":               {nil, "HEAD", "/upload/tus/0190a1b2-0000-7000-8000-000000000000", nil, nil, 404, "not-found"},
		"path below an upload":                     {nil, "HEAD", "/upload/tus/0190/x", nil, nil, 404, "not-found"},
		"path with the same prefix":                {nil, "POST", "/upload/tusk", nil, map[string]string{"Upload-Length": "5"}, 404, "not-found"},
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
					t.Errorf("got no %s header", header)
				}
			}
			f.files.Before = nil
			f.wantCounts(t, 0, 1, 0)
			want := "2"
			if name == "interrupted piece" {
				want = "3" // no other request changes the offset
			}
			wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": want})
		})
	}
}

// withLength adds an upload length of 5 bytes to headers and returns them.
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
						t.Errorf("status %d: got the challenge %q", want.status, challenge)
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
	if len(f.uploads(t)) != 0 {
		t.Error("the upload still exists")
	}
}

// TestTusOvertaken checks that a request gets a 409 if another writer appends bytes at the same offset first.
func TestTusOvertaken(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	f.files.Before = during("Append", func() {
		f.files.Before = nil
		wantTus(t, f.tus("PATCH", location, strings.NewReader("hello"), piece(0)), 204, map[string]string{"Upload-Offset": "5"})
	})
	wantProblem(t, f.tus("PATCH", location, strings.NewReader("HELLO"), piece(0)), 409, "conflict")
	if got := string(f.only(t).Bytes); got != "hello" {
		t.Errorf("got file content %q, want hello", got)
	}
	f.wantCounts(t, 1, 1, 1)
}

// tusComplete contains the requests that complete an upload of 5 bytes. Each function prepares an upload and returns
// its location, or an empty string if the request creates the upload.
var tusComplete = map[string]struct {
	prepare func(t *testing.T, f *fixture) string
	request func(f *fixture, location string) *httptest.ResponseRecorder
	status  int
}{
	"creation with all bytes": {
		func(*testing.T, *fixture) string { return "" },
		func(f *fixture, _ string) *httptest.ResponseRecorder {
			return f.tus("POST", "/upload/tus/", strings.NewReader("hello"), piece(0), map[string]string{"Upload-Length": "5"})
		}, 201,
	},
	"last bytes": {
		func(t *testing.T, f *fixture) string { t.Helper(); return f.createTus(t, 5) },
		func(f *fixture, location string) *httptest.ResponseRecorder {
			return f.tus("PATCH", location, strings.NewReader("hello"), piece(0))
		}, 204,
	},
	"HEAD after all bytes": {
		arrived,
		func(f *fixture, location string) *httptest.ResponseRecorder { return f.tus("HEAD", location, nil) }, 200,
	},
	"PATCH after all bytes": {
		arrived,
		func(f *fixture, location string) *httptest.ResponseRecorder {
			return f.tus("PATCH", location, nil, piece(5))
		}, 204,
	},
}

// arrived creates an upload all of whose bytes have arrived, but whose function was killed before it committed the
// file.
func arrived(t *testing.T, f *fixture) string {
	t.Helper()
	location := f.createTus(t, 5)
	if _, err := f.files.Append(t.Context(), location[len("/upload/tus/"):], 0, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	return location
}

// TestTusCompletes checks that each request that completes an upload stores the file and publishes its event. The
// request must also succeed if the event cannot be published, because the sweep function publishes the event later.
func TestTusCompletes(t *testing.T) {
	for name, c := range tusComplete {
		for fault, with := range map[string]struct {
			prepare func(f *fixture)
			events  int
		}{
			"no fault":                  {func(*fixture) {}, 1},
			"event cannot be published": {func(f *fixture) { f.publisher.do = notPublished }, 0},
		} {
			t.Run(name+", "+fault, func(t *testing.T) {
				f := newFixture(t)
				location := c.prepare(t, f)
				with.prepare(f)
				answer := c.request(f, location)
				k := f.only(t)
				wantTus(t, answer, c.status, map[string]string{"Upload-Offset": "5", "Upload-Expires": ""})
				if got, want := string(k.Bytes), "hello"; got != want || !k.HasNote {
					t.Errorf("got file %+v, want a file with its note and with the content %q", k, want)
				}
				if got := len(f.publisher.published); got != with.events {
					t.Errorf("got %d published events, want %d", got, with.events)
				}
				// Later requests must not try to publish the event again.
				wantTus(t, f.tus("HEAD", "/upload/tus/"+k.ID, nil), 200, map[string]string{"Upload-Offset": "5"})
				wantTus(t, f.tus("PATCH", "/upload/tus/"+k.ID, nil, piece(5)), 204, map[string]string{"Upload-Offset": "5"})
				wantProblem(t, f.tus("PATCH", "/upload/tus/"+k.ID, strings.NewReader("more"), piece(5)), 413, "too-large")
				f.wantCounts(t, 1, 1, 1)
			})
		}
	}
}

// TestTusCommitFails checks that a request does not succeed if it cannot commit a complete upload. A later HEAD request
// must commit the file.
func TestTusCommitFails(t *testing.T) {
	for name, c := range tusComplete {
		for fault, err := range map[string]error{"failed commit": errAway, "commit of an unknown outcome": errUnknown} {
			t.Run(name+", "+fault, func(t *testing.T) {
				f := newFixture(t)
				location := c.prepare(t, f)
				f.files.Before = contenttest.Fail(err, "Finish")
				answer := c.request(f, location)
				if c.status == 200 {
					// tus-js-client gives up the upload if a HEAD request gets any other error status.
					wantProblem(t, answer, 423, "locked")
				} else {
					wantProblem(t, answer, 503, "unavailable")
				}
				f.files.Before = nil
				if location == "" {
					return // TestTusCreationFails checks what remains
				}
				f.wantCounts(t, 0, 1, 0)
				wantTus(t, f.tus("HEAD", location, nil), 200, map[string]string{"Upload-Offset": "5"})
				f.wantCounts(t, 1, 1, 1)
			})
		}
	}
}

// TestTusCreationFails checks that a failed creation leaves no upload behind, because the client did not receive the
// location of the upload. After a write of an unknown outcome, the upload must remain, because it is possibly a file.
func TestTusCreationFails(t *testing.T) {
	fail := func(err error, methods ...string) func(f *fixture) {
		return func(f *fixture) { f.files.Before = contenttest.Fail(err, methods...) }
	}
	for name, c := range map[string]struct {
		prepare func(f *fixture)
		body    string
		status  int
		files   int
		notes   int
	}{
		"interrupted body":              {func(*fixture) {}, "hel", 400, 0, 0},
		"body that is too long":         {func(*fixture) {}, "hello!", 413, 0, 0},
		"bytes cannot be stored":        {fail(errAway, "Append"), "hello", 503, 0, 0},
		"bytes are possibly stored":     {fail(errUnknown, "Append"), "hello", 503, 0, 1},
		"failed commit":                 {fail(errAway, "Finish"), "hello", 503, 0, 0},
		"commit of an unknown outcome":  {fail(errUnknown, "Finish"), "hello", 503, 0, 1},
		"upload that cannot be deleted": {fail(errAway, "Finish", "Discard"), "hello", 503, 0, 1},
		"another request stores the file": {func(f *fixture) {
			f.files.Before = func(method, id string) error {
				if method != "Finish" {
					return nil
				}
				f.files.Add(content.File{Info: file.Info{ID: id, Owner: owner, Size: 5}}, "hello")
				return errAway
			}
		}, "hello", 503, 1, 1},
		"quota used up by another upload": {func(f *fixture) {
			f.limit(t, 5)
			f.files.Before = during("Create", func() {
				f.files.Before = nil
				f.createTus(t, 5)
			})
		}, "hello", 507, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.prepare(f)
			var body io.Reader = strings.NewReader(c.body)
			if len(c.body) < 5 {
				body = io.MultiReader(body, iotest.ErrReader(io.ErrUnexpectedEOF))
			}
			answer := f.tus("POST", "/upload/tus", body, piece(0), map[string]string{"Upload-Length": "5"})
			if answer.Code != c.status || answer.Header().Get("Location") != "" {
				t.Errorf("got %d %s with Location %q, want %d and none", answer.Code, answer.Body, answer.Header().Get("Location"), c.status)
			}
			f.wantCounts(t, c.files, c.notes, 0)
		})
	}
}

// TestTusLocked checks that only one request at a time adds bytes with a checksum to an upload.
func TestTusLocked(t *testing.T) {
	f := newFixture(t)
	location := f.createTus(t, 5)
	headers := map[string]string{"Content-Digest": "sha-256=:" + helloBase64 + ":"}
	second := readerFunc(func([]byte) (int, error) {
		answer := f.tus("PATCH", location, strings.NewReader("hello"), piece(0), headers)
		if wantProblem(t, answer, 423, "locked"); answer.Header().Get("Retry-After") == "" {
			t.Error("got no Retry-After header, want one")
		}
		return 0, io.EOF
	})
	wantTus(t, f.tus("PATCH", location, io.MultiReader(second, strings.NewReader("hello")), piece(0), headers), 204, map[string]string{"Upload-Offset": "5"})
}

// readerFunc implements io.Reader.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestTusTooMany checks that a user can have at most 1,000 resumable uploads in progress.
func TestTusTooMany(t *testing.T) {
	f := newFixture(t)
	length := map[string]string{"Upload-Length": "5"}
	others := map[string]string{"Upload-Length": "5", "Authorization": "Bearer " + f.stranger}
	const most = 1000
	for range most - 2 {
		open := content.Upload{Owner: owner, Length: 1, ExpiresAt: time.Now().Add(time.Hour)}
		if _, err := f.files.Create(t.Context(), open); err != nil {
			t.Fatal(err)
		}
	}
	f.createTus(t, 0) // a complete upload does not count
	terminated := f.createTus(t, 5)
	if answer := f.tus("POST", "/upload/tus/", nil, length); answer.Code != 201 {
		t.Fatalf("got %d %s for upload %d, want 201", answer.Code, answer.Body, most)
	}
	tooMany := func(headers ...map[string]string) {
		t.Helper()
		before, read := len(f.files.NoteIDs()), f.files.BytesRead()
		answer := f.tus("POST", "/upload/tus/", strings.NewReader("hello"), append(headers, length)...)
		wantProblem(t, answer, 429, "too-many-uploads")
		if after := len(f.files.NoteIDs()); after != before || f.files.BytesRead() != read || answer.Header().Get("Location") != "" {
			t.Errorf("got %d notes, %d bytes read and Location %q, want %d notes, none and none", after, f.files.BytesRead()-read,
				answer.Header().Get("Location"), before)
		}
	}
	tooMany()
	tooMany(piece(0))
	if answer := f.tus("POST", "/upload/tus/", nil, others); answer.Code != 201 {
		t.Errorf("got %d %s for another user, want 201", answer.Code, answer.Body)
	}
	if answer := f.send("POST", "/upload", strings.NewReader("hello"), nil); answer.Code != 202 {
		t.Errorf("got %d %s for an upload in one request, want 202", answer.Code, answer.Body)
	}
	wantTus(t, f.tus("DELETE", terminated, nil), 204, nil)
	f.createTus(t, 5)
	tooMany()
}
