package problem

import (
	"fmt"
	"net/http"
)

// ContentWriter returns a writer for http.ServeContent. size is the size of the content in bytes. http.ServeContent
// sends the error responses 412 without a body, and 416 as plain text. The writer sends problem documents instead.
func ContentWriter(w http.ResponseWriter, r *http.Request, size int64) http.ResponseWriter {
	return &contentWriter{w, r, size, false}
}

type contentWriter struct {
	http.ResponseWriter
	request *http.Request
	size    int64
	refused bool
}

// WriteHeader implements http.ResponseWriter.
func (w *contentWriter) WriteHeader(status int) {
	var err *Problem
	switch status {
	case http.StatusPreconditionFailed:
		err = PreconditionFailed.With("the content does not match the If-Match or the If-Unmodified-Since header")
	case http.StatusRequestedRangeNotSatisfiable:
		err = RangeUnsatisfiable.With("the requested range is outside the content, which is %d bytes long", w.size).
			Header("Content-Range", fmt.Sprintf("bytes */%d", w.size))
	default:
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	Write(w.ResponseWriter, w.request, err)
}

// Write implements http.ResponseWriter.
func (w *contentWriter) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil // discard the error text of http.ServeContent
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap returns the wrapped ResponseWriter, as http.ResponseController requires.
func (w *contentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
