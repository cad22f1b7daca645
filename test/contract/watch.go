package contract

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
)

// limit is the maximum number of bytes that are checked in each body. 1 MiB is sufficient, because only file content is
// longer, and file content is not checked.
const limit = 1 << 20

// exchange is a request and its response.
type exchange struct {
	request *http.Request // without the body, which is in sent
	sent    []byte        // request body; empty if the body is neither JSON nor a form
	status  int
	header  http.Header
	got     []byte
}

// watch returns a handler that first calls handler and then passes the request and its response to the tell callback.
func watch(handler http.Handler, tell func(exchange)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, answer := exchange{request: r.Clone(r.Context())}, &watchedWriter{ResponseWriter: w}
		sent := &watchedBody{ReadCloser: r.Body}
		if isJSON(r.Header) || strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			r = r.WithContext(r.Context())
			r.Body = sent
		}
		defer func() {
			if answer.status == 0 {
				return // handler panicked, so there is no response
			}
			x.sent, x.status, x.header = sent.bytes(), answer.status, answer.header
			if r.Method != http.MethodHead { // net/http sends no content in a response to HEAD
				x.got = answer.kept.Bytes()
			}
			tell(x)
		}()
		handler.ServeHTTP(answer, r)
		if answer.status == 0 {
			answer.WriteHeader(http.StatusOK)
		}
	})
}

// watchedBody is a request body that records the bytes that the handler reads, up to a total of limit bytes. As with a
// body of net/http, two goroutines can read concurrently: a proxy can still forward the body when its response has ended,
// and function.Wrap then reads the rest.
type watchedBody struct {
	io.ReadCloser
	mu   sync.Mutex
	kept bytes.Buffer
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Write(p[:min(n, limit-b.kept.Len())])
	return n, err
}

// bytes returns a copy of the recorded bytes.
func (b *watchedBody) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.kept.Bytes())
}

// watchedWriter is a response writer that records the status, the headers and up to limit bytes of the body.
type watchedWriter struct {
	http.ResponseWriter
	status int
	header http.Header
	kept   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (w *watchedWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.header = status, w.Header().Clone()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *watchedWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.kept.Write(p[:min(n, limit-w.kept.Len())])
	return n, err
}

// Unwrap returns the original response writer, so that http.ResponseController can use its other methods.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
