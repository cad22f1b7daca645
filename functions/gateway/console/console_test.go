package console

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func ask(method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler(15).ServeHTTP(w, r)
	return w
}

// linked matches the URLs of the assets in the page.
var linked = regexp.MustCompile(`(?:src|href)="(/[^"]+)"`)

func TestPages(t *testing.T) {
	page := ask(http.MethodGet, "/").Body.String()
	for path := range pages {
		got := ask(http.MethodGet, path)
		if got.Code != http.StatusOK || got.Body.String() != page || got.Header().Get("Content-Type") != "text/html; charset=utf-8" ||
			got.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: got status %d and headers %v, want the HTML page and no-cache", path, got.Code, got.Header())
		}
		again := ask(http.MethodGet, path, "If-None-Match", got.Header().Get("ETag"))
		if again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s with If-None-Match: got status %d and %d bytes, want 304 and none", path, again.Code, again.Body.Len())
		}
	}
	for header, want := range map[string]int{"If-Match": http.StatusPreconditionFailed, "Range": http.StatusRequestedRangeNotSatisfiable} {
		got := ask(http.MethodGet, "/", header, `"x"`)
		if got.Code != want || got.Header().Get("Content-Type") != "application/problem+json" || got.Header().Get("ETag") != "" {
			t.Errorf("%s: got status %d and headers %v, want a %d problem document", header, got.Code, got.Header(), want)
		}
	}
	for _, path := range []string{"/admin", "/admin/", "/index.htm", "/assets/", "/assets", "/assets/index.js", "/admin/files/x", "/../console.go", "/favicon.ico"} {
		if got := ask(http.MethodGet, path); got.Code != http.StatusNotFound || got.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: got status %d and Content-Type %s, want a 404 problem document", path, got.Code, got.Header().Get("Content-Type"))
		}
	}
	if got := ask(http.MethodPost, "/"); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: got status %d and headers %v, want 405 and Allow", got.Code, got.Header())
	}
}

// TestPagesOfConsole checks that each page of the console's script has a path, so that a user can load the page again.
func TestPagesOfConsole(t *testing.T) {
	source, err := os.ReadFile("src/main.tsx")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\{ path: '([^']+)'`).FindAllSubmatch(source, -1)
	if len(found) != len(pages) {
		t.Errorf("got %d paths in main.tsx, want the %d paths of the handler", len(found), len(pages))
	}
	for _, match := range found {
		if path := string(match[1]); !pages[path] {
			t.Errorf("the handler has no page %s", path)
		}
	}
}

// TestPasswordMinLength checks that the page states the minimum length of a new password, which is a setting.
func TestPasswordMinLength(t *testing.T) {
	if page := ask(http.MethodGet, "/").Body.String(); !strings.Contains(page, `data-password-min-length="15"`) {
		t.Errorf("got %s, want the minimum length 15", page)
	}
}

// The Content-Security-Policy (script-src 'self'; style-src 'self') permits no inline script and no inline style.
func TestPageHasNothingInline(t *testing.T) {
	page := ask(http.MethodGet, "/").Body.String()
	if found := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script[^>]*>[^<]`).FindString(page); found != "" {
		t.Errorf("got %q in the page, want nothing inline", found)
	}
	if regexp.MustCompile(`(?:src|href)="(?:https?:)?//`).MatchString(page) {
		t.Error("got a URL of another site in the page, want none")
	}
}

func TestAssets(t *testing.T) {
	page := ask(http.MethodGet, "/").Body.String()
	names := linked.FindAllStringSubmatch(page, -1)
	if len(names) < 2 {
		t.Fatalf("got assets %v in the page, want at least two", names)
	}
	kinds := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	for _, name := range names {
		plain := ask(http.MethodGet, name[1])
		want := kinds[name[1][strings.LastIndexByte(name[1], '.'):]]
		if plain.Code != http.StatusOK || want == "" || plain.Header().Get("Content-Type") != want {
			t.Errorf("%s: got status %d and headers %v, want 200 and Content-Type %q", name[1], plain.Code, plain.Header(), want)
		}
		cached := plain.Header().Get("Cache-Control")
		if strings.HasPrefix(name[1], "/assets/") != strings.Contains(cached, "immutable") {
			t.Errorf("%s: got Cache-Control %s, want immutable only in /assets/", name[1], cached)
		}
		small := ask(http.MethodGet, name[1], "Accept-Encoding", "br, gzip;q=0.8")
		if small.Header().Get("Content-Encoding") != "gzip" || small.Header().Get("ETag") == plain.Header().Get("ETag") || small.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s compressed: got headers %v, want gzip, another ETag and Vary", name[1], small.Header())
			continue
		}
		r, err := gzip.NewReader(small.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, plain.Body.Bytes()) {
			t.Errorf("%s: the decompressed content differs: %v", name[1], err)
		}
		for _, refusing := range []string{"identity", "gzip;q=0", "gzip; q=0.0", "br"} {
			if got := ask(http.MethodGet, name[1], "Accept-Encoding", refusing); got.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s with Accept-Encoding %s: got a compressed response, want none", name[1], refusing)
			}
		}
		if got := ask(http.MethodHead, name[1]); got.Code != http.StatusOK || got.Body.Len() > 0 {
			t.Errorf("HEAD %s: got status %d and %d bytes, want 200 and none", name[1], got.Code, got.Body.Len())
		}
	}
}
