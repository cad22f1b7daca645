package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// wantSafeName fails the test unless name is safe to store, to display and to use as a file name.
func wantSafeName(t *testing.T, name string) {
	t.Helper()
	unsafe := func(r rune) bool {
		return unicode.IsControl(r) || r == '/' || r == '\\' || unicode.In(r, unicode.Zl, unicode.Zp) || invisible(r) && !joins(r)
	}
	visible := func(r rune) bool { return !unicode.IsSpace(r) && !invisible(r) }
	if !strings.ContainsFunc(name, visible) || name == "." || name == ".." || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unsafe) || safeName(name) != name {
		t.Errorf("got name %q, which is not safe", name)
	}
}

// FuzzContentDisposition checks that every header or query is either refused or produces a safe name.
func FuzzContentDisposition(f *testing.F) {
	for _, seed := range []string{
		`attachment; filename="notes.txt"`, `attachment; filename=../../etc/passwd`, `inline`, `attachment; filename="C:\\a\\b"`,
		`attachment; filename*=UTF-8''%E2%82%AC%20rates.txt; filename=x`, `attachment; filename*0*=UTF-8''a%2F; filename*1="b"`,
		"attachment; filename=\"\xe2\x80\xae\xff\"", `attachment; filename="a` + "\u0301" + `"`, `attachment; filename*=iso-8859-1'en'%A3`, `;`,
	} {
		f.Add(seed, "a%2Fb")
	}
	f.Fuzz(func(t *testing.T, header, query string) {
		r := &http.Request{URL: &url.URL{RawQuery: "name=" + query}, Header: http.Header{"Content-Disposition": {header}}}
		name, err := declaredName(r)
		if err == nil {
			wantSafeName(t, safeName(name))
		}
		wantSafeName(t, safeName(header))
	})
}

// FuzzUploadMetadata checks that every header is either refused or produces a safe name. It also checks that the pairs
// of an accepted header stay the same if they are encoded and parsed again.
func FuzzUploadMetadata(f *testing.F) {
	for _, seed := range []string{
		"", " ", "name bm90ZXMudHh0", "filename bm90ZXMudHh0,filetype dGV4dC9wbGFpbg==", "name Li4vLi4vZXRjL3Bhc3N3ZA==, type ", "is_confidential",
		"name YQ==,name YQ==", "name YQ", "name Y Q==", "name YR==", ",", "name YQ==,", " YQ==", "na\u00efve YQ==", "name 4oCu/w==,type dGV4dC8K", "name YQ==\r\n",
		"type " + strings.Repeat("YWFh", 200), "name\tYQ==", "k " + strings.Repeat("YWFh", 2000), "filename ,name YQ==,filetype ,type YS9i",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		m, err := parseMetadata(http.Header{"Upload-Metadata": {header}})
		if err != nil {
			if problem.Status(err) != http.StatusBadRequest {
				t.Errorf("got %v, want problem.BadRequest", err)
			}
			return
		}
		wantSafeName(t, m.name)
		if _, _, err := contentType(m.contentType); err != nil || len(m.raw) > maxMetadata || m.raw != header {
			t.Errorf("got content type %q (error %v) and %d bytes, want a valid type and the unchanged header", m.contentType, err, len(m.raw))
		}
		pairs, _ := metadataPairs(header)
		var encoded []string
		for key, value := range pairs {
			encoded = append(encoded, key+" "+base64.StdEncoding.EncodeToString([]byte(value)))
		}
		if again, ok := metadataPairs(strings.Join(encoded, ",")); !ok || !maps.Equal(again, pairs) {
			t.Errorf("got %q from the pairs %q, want the same pairs", again, pairs)
		}
	})
}

// FuzzForm uploads each form twice: as a whole, and in small pieces. The response must be a 202 with one file and a
// valid event, or a 4xx without a file and without an event.
func FuzzForm(f *testing.F) {
	const boundary = "xyz"
	form := func(parts ...string) string {
		return "--" + boundary + "\r\n" + strings.Join(parts, "\r\n--"+boundary+"\r\n") + "\r\n--" + boundary + "--\r\n"
	}
	const whole = "Content-Disposition: form-data; name=file; filename=a.txt\r\nContent-Type: text/plain\r\n\r\nhello"
	const comment = "Content-Disposition: form-data; name=comment\r\n\r\na field"
	for _, seed := range []string{
		form(whole), form(comment, whole, comment), form(comment), form(whole, whole), form(strings.Repeat("x", 100)), "", "--xyz--",
		"--xyz\r\n", "preamble\r\n" + form(whole) + "epilogue", strings.ReplaceAll(form(whole), "\r\n", "\n"),
		form("Content-Disposition: form-data; name=file; filename*=UTF-8''%2e%2e\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41=\r\nb"),
		form("Content-Type: text/plain;;\r\n" + whole), form(strings.Repeat("A: b\r\n", 50) + whole), form(whole)[:60],
	} {
		f.Add(seed)
	}
	fx := newFixture(f)
	f.Fuzz(func(t *testing.T, body string) {
		for _, sent := range []io.Reader{strings.NewReader(body), pieces{strings.NewReader(body)}} {
			fx.files = contenttest.New()
			fx.limit(t, 0) // report contract errors to t, not to f
			fx.publisher.published = nil
			fx.publisher.attempts = nil
			answer := fx.send("POST", "/upload", sent, map[string]string{"Content-Type": "multipart/form-data; boundary=" + boundary})
			if answer.Code != 202 {
				if answer.Code < 400 || answer.Code > 499 || len(fx.files.Files()) != 0 || len(fx.publisher.attempts) != 0 {
					t.Fatalf("got %d %s with %d files and %d events", answer.Code, answer.Body, len(fx.files.Files()), len(fx.publisher.attempts))
				}
				continue
			}
			k := fx.only(t)
			wantSafeName(t, k.Name)
			if k.Size > maxSize || !bytes.Contains([]byte(body), k.Bytes) {
				t.Errorf("got a file of %d bytes that is not part of the form: %q", k.Size, k.Bytes)
			}
			var e event.Event
			if err := json.Unmarshal([]byte(k.Event), &e); err != nil {
				t.Fatalf("decode event %s: %v", k.Event, err)
			}
			var told file.Info
			if err := e.DataAs(&told); err != nil || told.Name != k.Name || told.ContentType != k.ContentType || told.Size != k.Size {
				t.Errorf("got event data %+v (error %v), want the data of file %+v", told, err, k.File)
			}
		}
	})
}

// pieces is a reader that returns at most one byte per read.
type pieces struct{ r io.Reader }

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(1, len(b))]) }
