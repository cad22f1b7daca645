package contract

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// limit bounds what is kept of a body: no documented one is as long, and files need not be looked at.
const limit = 1 << 20

// exchange is a request, as it was sent, and its answer.
type exchange struct {
	request *http.Request // its body is in sent
	sent    []byte        // of a body whose content the document describes, else empty
	status  int
	header  http.Header
	got     []byte
}

// watch returns a handler that does as handler does, and tells of each exchange when it is over.
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
				return // the connection was cut instead
			}
			x.sent, x.status, x.header = sent.kept.Bytes(), answer.status, answer.header
			if r.Method != http.MethodHead { // of which net/http sends no content
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

// watchedBody keeps what is read of a body.
type watchedBody struct {
	io.ReadCloser
	kept bytes.Buffer
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.kept.Write(p[:min(n, limit-b.kept.Len())])
	return n, err
}

// watchedWriter keeps what is answered.
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

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
