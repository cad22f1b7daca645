package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// content handles GET /files/{id}/content. It sends the file's content and supports range requests and conditional
// requests (RFC 9110).
func (h *handler) content(w http.ResponseWriter, r *http.Request) error {
	// Read the file from the store, because a new file might not have a catalog entry yet.
	f, err := h.readable(r)
	if err != nil {
		return err
	}
	recordForeign(r.Context(), eventDownloaded, f.ID, f.Owner)
	return h.send(w, r, f)
}

// maxRanges is the maximum number of ranges in one request. It is low, because the store reads at least one whole
// chunk for each range.
const maxRanges = 16

// send responds to r with the content of f, or with only the ranges of the content that r requests.
func (h *handler) send(w http.ResponseWriter, r *http.Request, f content.File) error {
	// If there are too many ranges, ignore the Range header and send the whole file (RFC 9110, Section 14.2).
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	header := w.Header()
	header.Set("Content-Type", f.ContentType)
	header.Set("Content-Disposition", attachment(f.Name))
	header.Set("ETag", `"`+f.SHA256+`"`)
	setDigests(header, r, f.SHA256)
	// A file's content never changes, but a user's permission to read the file can change. A cache must therefore check
	// with the server before each use of the content.
	header.Set("Cache-Control", "private, no-cache")
	// Prevent browsers from displaying or running the file as a page of this site, because the file comes from a
	// user and is not trusted.
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")

	bytes := &watched{reader: h.files.Reader(r.Context(), f)}
	late := &lateWriter{ResponseWriter: problem.ContentWriter(w, r, f.Size)}
	http.ServeContent(late, r, "", f.StoredAt, bytes)
	failed := bytes.close()
	switch {
	case failed == nil:
		late.start()
		return nil
	case !late.started:
		return failed
	}
	// Close the connection, so that the client does not mistake the partial content for the whole file. It is too late
	// for a problem document, because the response has begun.
	slog.WarnContext(r.Context(), "download interrupted", "id", f.ID, "error", failed)
	panic(http.ErrAbortHandler)
}

// watched is a reader that records a read error, because http.ServeContent does not return the error.
type watched struct {
	// mu protects all other fields. If a request has multiple ranges, http.ServeContent starts a goroutine that might
	// still be reading after http.ServeContent returns.
	mu     sync.Mutex
	reader io.ReadSeekCloser
	err    error
}

func (w *watched) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.reader.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

func (w *watched) Seek(offset int64, whence int) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reader.Seek(offset, whence)
}

// close closes the reader. It returns the recorded read error, joined with the error from closing the reader.
func (w *watched) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.err, w.reader.Close())
}

// lateWriter delays the response header until the first byte of the body is written, so that a problem document can
// still replace the response.
type lateWriter struct {
	http.ResponseWriter
	status  int
	started bool
}

func (w *lateWriter) WriteHeader(status int) { w.status = status }

func (w *lateWriter) Write(p []byte) (int, error) {
	w.start()
	return w.ResponseWriter.Write(p)
}

// start sends the response header unless it has already been sent.
func (w *lateWriter) start() {
	if !w.started {
		w.started = true
		omitDigests(w.Header(), w.status)
		w.ResponseWriter.WriteHeader(w.status)
	}
}

// attachment returns a Content-Disposition header value (RFC 6266) that suggests the given file name for a download.
func attachment(name string) string {
	var plain, extended strings.Builder
	// Some clients accept only safe ASCII characters in the filename parameter, so replace all other characters
	// with underscores.
	for _, r := range name {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%/`, r) {
			r = '_'
		}
		plain.WriteRune(r)
	}
	if plain.String() == name {
		return fmt.Sprintf(`attachment; filename="%s"`, name)
	}
	// Add the filename* parameter, which contains the exact name in UTF-8 (RFC 8187).
	for _, b := range []byte(name) {
		if b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || strings.IndexByte("!#$&+-.^_`|~", b) >= 0 {
			extended.WriteByte(b)
		} else {
			fmt.Fprintf(&extended, "%%%02X", b)
		}
	}
	return fmt.Sprintf(`attachment; filename="%s"; filename*=UTF-8''%s`, plain.String(), extended.String())
}
