// Package console serves the web console. After a change to the TypeScript source of the console, run `make console`
// to rebuild the files in the dist directory.
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// dist contains the built console. It is committed to the repository, so that building the gateway does not require
// Node.js.
//
//go:embed all:dist
var dist embed.FS

// pages contains the paths of the console's pages. All pages use the same HTML document. Its script selects the page
// to show based on the path.
var pages = map[string]bool{"/": true, "/password": true, "/devices": true, "/passkeys": true,
	"/admin/files": true, "/admin/accounts": true, "/admin/audit": true}

// types maps file name extensions to content types. The console does not use the mime package, because that package's
// results depend on the machine's configuration.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

// asset is a file of the web console, together with its response headers.
type asset struct {
	content, contentType, cacheControl, etag string
	// gzipped returns the asset's content, compressed with gzip. It compresses the content once, on the first call.
	gzipped func() string
}

// Handler returns a handler that serves the console's pages and assets. The pages state the minimum length of a new
// password, in characters. The caller must set the headers that restrict a page, such as Content-Security-Policy.
func Handler(passwordMinLength int) http.Handler {
	assets := map[string]*asset{}
	err := fs.WalkDir(dist, "dist", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		contentType, ok := types[path.Ext(name)]
		if !ok {
			return fmt.Errorf("file %s: the content type for the file name extension is unknown", name)
		}
		if path.Ext(name) == ".html" {
			content = bytes.ReplaceAll(content, []byte("PASSWORD_MIN_LENGTH"), []byte(strconv.Itoa(passwordMinLength)))
		}
		assets[strings.TrimPrefix(name, "dist")] = newAsset(content, contentType, strings.HasPrefix(name, "dist/assets/"))
		return nil
	})
	if err != nil {
		panic("console: " + err.Error()) // dist is embedded, so every test would find this error
	}
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return problem.MethodNotAllowed.With("use GET").Header("Allow", "GET, HEAD")
		}
		name := r.URL.Path
		if pages[name] {
			name = "/index.html"
		}
		found, ok := assets[name]
		if !ok {
			return problem.NotFound.With("no such endpoint")
		}
		found.serve(w, r)
		return nil
	})
}

// newAsset returns an asset with the given content. Set hashed to true if the asset's file name contains a digest of
// the content.
func newAsset(content []byte, contentType string, hashed bool) *asset {
	sum := sha256.Sum256(content)
	a := &asset{content: string(content), contentType: contentType, cacheControl: "no-cache", etag: hex.EncodeToString(sum[:12])}
	if hashed {
		// A browser may cache the asset for a year, because changed content gets a new file name.
		a.cacheControl = "public, max-age=31536000, immutable"
	}
	a.gzipped = sync.OnceValue(func() string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(content) // writing to memory does not fail
		_ = w.Close()
		return b.String()
	})
	return a
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", a.cacheControl)
	h.Add("Vary", "Accept-Encoding")
	content, etag := a.content, a.etag
	// Do not compress the response to a range request, because the range refers to the uncompressed content.
	if acceptsGzip(r) && r.Header.Get("Range") == "" {
		content, etag = a.gzipped(), etag+"-gzip"
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", `"`+etag+`"`)
	http.ServeContent(problem.ContentWriter(w, r, int64(len(content))), r, "", time.Time{}, strings.NewReader(content))
}

// acceptsGzip reports whether the client accepts responses that are compressed with gzip (RFC 9110, Section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			name, weight, _ := strings.Cut(strings.TrimSpace(coding), ";")
			if strings.TrimSpace(name) == "gzip" {
				q, ok := strings.CutPrefix(strings.TrimSpace(weight), "q=")
				return !ok || strings.Trim(q, "0.") != ""
			}
		}
	}
	return false
}
