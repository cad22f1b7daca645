// Package console is the web console: a page to sign in, to hand in files and get them back, and for admins to manage
// accounts. It is TypeScript, built into dist by `make console`; what is built is committed, so that building the gateway
// takes no Node.
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
	"strings"
	"sync"
	"time"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

//go:embed all:dist
var dist embed.FS

// pages are the paths at which the console shows something: all are one page, which looks at its address.
var pages = map[string]bool{"/": true, "/password": true, "/admin/files": true, "/admin/accounts": true, "/admin/audit": true}

// types are those of the files in dist by the ends of their names; mime's depend on the machine.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

// asset is a file of the console.
type asset struct {
	content, contentType, cacheControl, etag string
	// gzipped is the content compressed, when somebody has asked for it that way.
	gzipped func() string
}

// Handler answers GET and HEAD for the console's pages and their assets, and anything else as not found. It sets the
// headers that belong to an asset; what a page may do is for its caller to say.
func Handler() http.Handler {
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
			return fmt.Errorf("%s: its content type is not known", name)
		}
		assets[strings.TrimPrefix(name, "dist")] = newAsset(content, contentType, strings.HasPrefix(name, "dist/assets/"))
		return nil
	})
	if err != nil {
		panic("console: " + err.Error()) // it is in the binary: a test would have found it
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
			return problem.NotFound.With("there is nothing at this path")
		}
		found.serve(w, r)
		return nil
	})
}

// newAsset describes a file; a hashed one has a digest of its content in its name.
func newAsset(content []byte, contentType string, hashed bool) *asset {
	sum := sha256.Sum256(content)
	a := &asset{content: string(content), contentType: contentType, cacheControl: "no-cache", etag: hex.EncodeToString(sum[:12])}
	if hashed {
		a.cacheControl = "public, max-age=31536000, immutable"
	}
	a.gzipped = sync.OnceValue(func() string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(content) // to memory: neither fails
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
	// Ranges are of what is not compressed.
	if acceptsGzip(r) && r.Header.Get("Range") == "" {
		content, etag = a.gzipped(), etag+"-gzip"
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", `"`+etag+`"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

// acceptsGzip tells whether the client takes gzip (RFC 9110 §12.5.3), which all browsers do.
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
