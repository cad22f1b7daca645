package main

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestContent(t *testing.T) {
	const etag = `"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"`
	for name, c := range map[string]struct {
		method  string
		headers map[string]string
		status  int
		body    string
		length  string
		extent  string // Content-Range
	}{
		"whole file":                     {"GET", nil, 200, "hello world", "11", ""},
		"HEAD":                           {"HEAD", nil, 200, "", "11", ""},
		"range":                          {"GET", map[string]string{"Range": "bytes=6-"}, 206, "world", "5", "bytes 6-10/11"},
		"last bytes":                     {"GET", map[string]string{"Range": "bytes=-3"}, 206, "rld", "3", "bytes 8-10/11"},
		"HEAD with a range":              {"HEAD", map[string]string{"Range": "bytes=6-"}, 206, "", "5", "bytes 6-10/11"},
		"range with a matching If-Range": {"GET", map[string]string{"Range": "bytes=6-", "If-Range": etag}, 206, "world", "5", "bytes 6-10/11"},
		"range with another If-Range":    {"GET", map[string]string{"Range": "bytes=6-", "If-Range": `"x"`}, 200, "hello world", "11", ""},
		"not modified":                   {"GET", map[string]string{"If-None-Match": etag}, 304, "", "", ""},
		"not modified, weak ETag":        {"HEAD", map[string]string{"If-None-Match": `"x", W/` + etag}, 304, "", "", ""},
		"modified":                       {"GET", map[string]string{"If-None-Match": `"x"`}, 200, "hello world", "11", ""},
		"matching precondition":          {"GET", map[string]string{"If-Match": `"x", ` + etag}, 200, "hello world", "11", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			answer := f.send("ada", c.method, "/files/"+cataloguedID+"/content", c.headers)
			header := answer.Header()
			if answer.Code != c.status || answer.Body.String() != c.body {
				t.Errorf("got %d %q, want %d %q", answer.Code, answer.Body, c.status, c.body)
			}
			want := map[string]string{
				"Content-Length": c.length, "Content-Range": c.extent, "ETag": etag,
				"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff",
				"Content-Security-Policy": "sandbox; default-src 'none'",
				"Content-Disposition":     `attachment; filename="notes _.txt"; filename*=UTF-8''notes%20%E2%82%AC.txt`,
			}
			if c.body != "" {
				want["Content-Type"] = "text/html"
			}
			for name, want := range want {
				if got := header.Get(name); got != want {
					t.Errorf("got %s %q, want %q", name, got, want)
				}
			}
			if f.open != 0 {
				t.Errorf("got %d open readers, want none", f.open)
			}
		})
	}
	for name, headers := range map[string]map[string]string{
		"If-Match":            {"If-Match": `"x"`},
		"If-Match, weak ETag": {"If-Match": "W/" + etag},
		"If-Unmodified-Since": {"If-Unmodified-Since": now.Add(-24 * time.Hour).Format(http.TimeFormat)},
		"with a range":        {"If-Match": `"x"`, "Range": "bytes=0-1"},
	} {
		t.Run("failed precondition, "+name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				f := newFixture(t)
				answer := f.send("ada", method, "/files/"+cataloguedID+"/content", headers)
				if method == "GET" {
					wantProblem(t, answer, 412, "precondition-failed")
				}
				for header, want := range map[string]string{"Content-Type": "application/problem+json", "ETag": "", "Content-Disposition": "",
					"Repr-Digest": "", "Content-Digest": ""} {
					if got := answer.Header().Get(header); answer.Code != 412 || got != want {
						t.Errorf("%s: got status %d and %s %q, want 412 and %q", method, answer.Code, header, got, want)
					}
				}
				if f.open != 0 {
					t.Errorf("%s: got %d open readers, want none", method, f.open)
				}
			}
		})
	}
	t.Run("several ranges", func(t *testing.T) {
		answer := newFixture(t).send("ada", "GET", "/files/"+cataloguedID+"/content", map[string]string{"Range": "bytes=0-0,10-10"})
		if kind := answer.Header().Get("Content-Type"); answer.Code != 206 || !strings.HasPrefix(kind, "multipart/byteranges") {
			t.Errorf("got %d of type %q, want 206 of type multipart/byteranges", answer.Code, kind)
		}
	})
	t.Run("too many ranges", func(t *testing.T) {
		ranges := "bytes=0-0" + strings.Repeat(",0-0", maxRanges)
		if answer := newFixture(t).send("ada", "GET", "/files/"+cataloguedID+"/content", map[string]string{"Range": ranges}); answer.Code != 200 || answer.Body.String() != "hello world" {
			t.Errorf("got %d %q, want 200 and the whole file", answer.Code, answer.Body)
		}
	})
	t.Run("out of range", func(t *testing.T) {
		answer := newFixture(t).send("ada", "GET", "/files/"+cataloguedID+"/content", map[string]string{"Range": "bytes=11-"})
		wantProblem(t, answer, 416, "range-not-satisfiable")
		if got, want := answer.Header().Get("Content-Range"), "bytes */11"; got != want {
			t.Errorf("got Content-Range %q, want %q", got, want)
		}
	})
	t.Run("empty", func(t *testing.T) {
		answer := newFixture(t).send("root", "GET", "/files/"+gracesID+"/content", nil)
		if answer.Code != 200 || answer.Body.Len() != 0 || answer.Header().Get("Content-Length") != "0" {
			t.Errorf("got %d %q, want 200 and an empty body", answer.Code, answer.Body)
		}
	})
	t.Run("not in the catalog yet", func(t *testing.T) {
		if answer := newFixture(t).send("ada", "GET", "/files/"+storedID+"/content", nil); answer.Code != 200 || answer.Body.String() != "abc" {
			t.Errorf("got %d %q, want 200 abc", answer.Code, answer.Body)
		}
	})
}

// TestDigests checks which digests a response has, and that a client can refuse each of them.
func TestDigests(t *testing.T) {
	const etag = `"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"`
	const digest = "sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:" // the same in base64
	want := func(repr, content string) map[string]string {
		return map[string]string{"Want-Repr-Digest": repr, "Want-Content-Digest": content}
	}
	for name, c := range map[string]struct {
		method        string
		headers       map[string]string
		status        int
		repr, content string
	}{
		"whole file":               {"GET", nil, 200, digest, digest},
		"HEAD":                     {"HEAD", nil, 200, digest, ""},
		"range":                    {"GET", map[string]string{"Range": "bytes=6-"}, 206, digest, ""},
		"range of the whole file":  {"GET", map[string]string{"Range": "bytes=0-"}, 206, digest, ""},
		"several ranges":           {"GET", map[string]string{"Range": "bytes=0-0,10-10"}, 206, digest, ""},
		"HEAD with a range":        {"HEAD", map[string]string{"Range": "bytes=6-"}, 206, digest, ""},
		"not modified":             {"GET", map[string]string{"If-None-Match": etag}, 304, "", ""},
		"out of range":             {"GET", map[string]string{"Range": "bytes=11-"}, 416, "", ""},
		"wanted":                   {"GET", want("sha-256=10", "sha-256=1, sha-512=10"), 200, digest, digest},
		"no Repr-Digest":           {"GET", want("sha-256=0", ""), 200, "", digest},
		"no Content-Digest":        {"GET", want("", "sha-512=3, sha-256=0"), 200, digest, ""},
		"no digest":                {"HEAD", want("sha-256=0", "sha-256=0"), 200, "", ""},
		"no digest with a range":   {"GET", map[string]string{"Want-Repr-Digest": "sha-256=0", "Range": "bytes=6-"}, 206, "", ""},
		"unsupported algorithm":    {"GET", want("sha-512=10", "md5=1"), 200, digest, digest},
		"other algorithm refused":  {"GET", want("sha-512=0", "sha-512=0"), 200, digest, digest},
		"malformed":                {"GET", want("sha-256=", "sha-256=0, sha-512=:"), 200, digest, digest},
		"weight of another type":   {"GET", want("sha-256=?0", "sha-256=0.0"), 200, digest, digest},
		"weight out of range":      {"GET", want("sha-256=11", "sha-256=-1"), 200, digest, digest},
		"value that is a list":     {"GET", want("sha-256=(0)", "sha-256"), 200, digest, digest},
		"algorithm in upper case":  {"GET", want("SHA-256=0", "SHA-256=0"), 200, digest, digest},
		"last value counts":        {"GET", want("sha-256=0, sha-256=5", "sha-256=5, sha-256=0"), 200, digest, ""},
		"weight with a parameter":  {"GET", want("sha-256=0;q=1", ""), 200, "", digest},
		"empty Want-* headers":     {"GET", want("", ""), 200, digest, digest},
		"too many ranges, ignored": {"GET", map[string]string{"Range": "bytes=0-0" + strings.Repeat(",0-0", maxRanges)}, 200, digest, digest},
	} {
		t.Run(name, func(t *testing.T) {
			answer := newFixture(t).send("ada", c.method, "/files/"+cataloguedID+"/content", c.headers)
			if answer.Code != c.status {
				t.Errorf("got %d %s, want %d", answer.Code, answer.Body, c.status)
			}
			for header, want := range map[string]string{"Repr-Digest": c.repr, "Content-Digest": c.content} {
				if got := answer.Header().Get(header); got != want {
					t.Errorf("got %s %q, want %q", header, got, want)
				}
			}
		})
	}
}

func TestContentBreaksOff(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		status  int
		problem string
	}{
		"the store becomes unavailable": {errAway, 503, "unavailable"},
		"a chunk is missing":            {errors.New("secret: chunk 0 is missing"), 500, "internal"},
	} {
		t.Run(name+" before the first byte", func(t *testing.T) {
			f := newFixture(t)
			f.readErr = c.err
			answer := f.send("ada", "GET", "/files/"+cataloguedID+"/content", nil)
			wantProblem(t, answer, c.status, c.problem)
			for header, want := range map[string]string{"ETag": "", "Content-Length": strconv.Itoa(answer.Body.Len()), "Content-Disposition": "",
				"Repr-Digest": "", "Content-Digest": ""} {
				if got := answer.Header().Get(header); got != want {
					t.Errorf("got %s %q with a problem, want %q", header, got, want)
				}
			}
		})
		for ranges, header := range map[string]string{"": "", " in several ranges": "bytes=0-1,5-9"} {
			t.Run(name+" after the first byte"+ranges, func(t *testing.T) {
				f := newFixture(t)
				f.readErr, f.failAfter = c.err, 6
				server := httptest.NewServer(f.handler)
				defer server.Close()
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/files/"+cataloguedID+"/content", nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Authorization", "Bearer "+f.tokens["ada"])
				request.Header.Set("Range", header)
				answer, err := server.Client().Do(request)
				if err == nil {
					defer answer.Body.Close()
					_, err = io.ReadAll(answer.Body)
				}
				if err == nil {
					t.Error("got a complete response, want an interrupted response")
				}
			})
		}
	}
}

func TestAttachment(t *testing.T) {
	for name, want := range map[string]string{
		"notes.txt":     `attachment; filename="notes.txt"`,
		"my notes.txt":  `attachment; filename="my notes.txt"`,
		`a"b\c.txt`:     `attachment; filename="a_b_c.txt"; filename*=UTF-8''a%22b%5Cc.txt`,
		"100%.txt":      `attachment; filename="100_.txt"; filename*=UTF-8''100%25.txt`,
		"é'(x).txt":     `attachment; filename="_'(x).txt"; filename*=UTF-8''%C3%A9%27%28x%29.txt`,
		"a\r\nX: y.txt": `attachment; filename="a__X: y.txt"; filename*=UTF-8''a%0D%0AX%3A%20y.txt`,
	} {
		got := attachment(name)
		if got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
		_, params, err := mime.ParseMediaType(got)
		if err != nil || params["filename"] != name {
			t.Errorf("%q: got file name %q from the header (error %v), want the original name", name, params["filename"], err)
		}
	}
}
