package function

import (
	"io"
	"net/http"
	"time"
)

const (
	// smallBody, in bytes, is read before an answer, if it comes within smallTime: it is on its way anyhow.
	smallBody = 64 << 10
	smallTime = time.Second
)

// EndSmallBodies reads a small body to its end before next answers. It is for functions with Knative's feature
// features.knative.dev/http-full-duplex: queue-proxy and activator then pass on answers before the body has come, and do not
// tell the one in front of them that the connection ends with that. After small requests that were refused, up to a third of
// the next ones on the connection got a 502.
func EndSmallBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Reading would ask for a body that waits for 100 (Continue), and one of unknown length may be a stream.
		if r.ContentLength > 0 && r.ContentLength <= smallBody && r.Header.Get("Expect") == "" {
			w = &smallWriter{w, r.Body, false}
		}
		next.ServeHTTP(w, r)
	})
}

// smallWriter reads body when an answer is about to be given.
type smallWriter struct {
	http.ResponseWriter
	body io.Reader
	done bool
}

// WriteHeader implements http.ResponseWriter.
func (w *smallWriter) WriteHeader(status int) {
	if status >= 200 && !w.done {
		w.done = true
		w.read()
	}
	w.ResponseWriter.WriteHeader(status)
}

// read reads to the end. Of a body that does not come to it, Linger takes care.
func (w *smallWriter) read() {
	rc := http.NewResponseController(w.ResponseWriter)
	if rc.SetReadDeadline(time.Now().Add(smallTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, w.body)
	// Or it would end the request while its answer is still being written; for the next one it is set anew.
	_ = rc.SetReadDeadline(time.Time{})
}

// Write implements http.ResponseWriter.
func (w *smallWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *smallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
