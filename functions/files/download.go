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

// content answers with the bytes of a file (RFC 9110: ranges, conditional requests). The stored document alone says
// whose the file is, so that it can be had as soon as it is stored.
func (h *handler) content(w http.ResponseWriter, r *http.Request, id string) error {
	f, err := h.stored(r.Context(), id)
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), f.Owner); err != nil {
		return err
	}
	return h.send(w, r, f)
}

// maxRanges bounds the ranges of one request: each of them, however short, costs a chunk. A header with more is ignored,
// as RFC 9110 (section 14.2) lets a server do.
const maxRanges = 16

// send answers with the bytes of f.
func (h *handler) send(w http.ResponseWriter, r *http.Request, f content.File) error {
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	header := w.Header()
	header.Set("Content-Type", f.ContentType)
	header.Set("Content-Disposition", attachment(f.Name))
	header.Set("ETag", `"`+f.SHA256+`"`)
	// The bytes under this address never change, but who may have them does.
	header.Set("Cache-Control", "private, no-cache")
	// The bytes are a stranger's: no browser may take them for a page of ours.
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")

	bytes := &watched{reader: h.files.Reader(r.Context(), f)}
	late := &lateWriter{ResponseWriter: w}
	http.ServeContent(late, r, "", f.StoredAt, bytes)
	failed := bytes.close()
	switch {
	case late.unsatisfiable:
		return problem.RangeUnsatisfiable.With("the file has %d bytes", f.Size).Header("Content-Range", fmt.Sprintf("bytes */%d", f.Size))
	case failed == nil:
		late.start()
		return nil
	case !late.started:
		return failed
	}
	// Too late for another answer: the connection must be cut, lest a part be taken for the whole.
	slog.WarnContext(r.Context(), "the download broke off", "id", f.ID, "error", failed)
	panic(http.ErrAbortHandler)
}

// watched keeps the error that ServeContent does not return. It locks because ServeContent, answering several ranges
// to a client that goes away, returns while a goroutine of its own still reads.
type watched struct {
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

// close closes the reader and returns the error that reading ended with, if any.
func (w *watched) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.err, w.reader.Close())
}

// lateWriter holds the header back until the first byte of the body is there. So a store that goes away before that
// can still be answered with a problem, and so can a range that can not be satisfied.
type lateWriter struct {
	http.ResponseWriter
	status        int
	started       bool
	unsatisfiable bool
}

func (w *lateWriter) WriteHeader(status int) {
	w.status = status
	w.unsatisfiable = status == http.StatusRequestedRangeNotSatisfiable
}

func (w *lateWriter) Write(p []byte) (int, error) {
	if w.unsatisfiable {
		return len(p), nil // a text that the problem document replaces
	}
	w.start()
	return w.ResponseWriter.Write(p)
}

// start sends the header.
func (w *lateWriter) start() {
	if !w.started {
		w.started = true
		w.ResponseWriter.WriteHeader(w.status)
	}
}

// attachment returns a Content-Disposition (RFC 6266) with name, whatever it is made of: in ASCII for all clients,
// and where that is not the whole name, in UTF-8 as RFC 8187 wants it.
func attachment(name string) string {
	var plain, extended strings.Builder
	for _, r := range name {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%/`, r) {
			r = '_'
		}
		plain.WriteRune(r)
	}
	if plain.String() == name {
		return fmt.Sprintf(`attachment; filename="%s"`, name)
	}
	for _, b := range []byte(name) {
		if b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || strings.IndexByte("!#$&+-.^_`|~", b) >= 0 {
			extended.WriteByte(b)
		} else {
			fmt.Fprintf(&extended, "%%%02X", b)
		}
	}
	return fmt.Sprintf(`attachment; filename="%s"; filename*=UTF-8''%s`, plain.String(), extended.String())
}
