package function

import (
	"io"
	"net/http"
	"time"
)

const (
	// smallBody is the maximum length of a request body that EndSmallBodies reads, in bytes. Reading a body of this
	// length rarely delays the response, because the client has usually sent the whole body already.
	smallBody = 64 << 10
	// smallTime is how long EndSmallBodies waits for the end of a small body.
	smallTime = time.Second
)

// EndSmallBodies returns a handler that calls next. If the request body is small, the handler reads it to its end
// before the response begins.
//
// Every function that uses the Knative feature features.knative.dev/http-full-duplex needs EndSmallBodies. With this
// feature, queue-proxy and activator forward a response before the request body has ended, and then close the
// connection without notifying the proxy in front of them. Without EndSmallBodies, up to a third of the requests that
// followed a rejected small request on the same connection therefore failed with a 502.
func EndSmallBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Do not read the body of a request with an Expect header, because net/http would then send 100 (Continue),
		// and the client would send a body that is not needed. Do not read a body of unknown length, because it might
		// be an endless stream.
		if r.ContentLength > 0 && r.ContentLength <= smallBody && r.Header.Get("Expect") == "" {
			w = &smallWriter{w, r.Body, false}
		}
		next.ServeHTTP(w, r)
	})
}

// smallWriter is a ResponseWriter that reads the request body to its end before it writes the response.
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

// read reads the body to its end and discards it. If the body does not end within smallTime, read returns, and Linger
// reads the rest of the body after the response.
func (w *smallWriter) read() {
	rc := http.NewResponseController(w.ResponseWriter)
	if rc.SetReadDeadline(time.Now().Add(smallTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, w.body)
	// Clear the deadline, because net/http would otherwise cancel the request if the deadline passed while the handler
	// is still writing the response. net/http sets a new deadline for the next request.
	_ = rc.SetReadDeadline(time.Time{})
}

// Write implements http.ResponseWriter.
func (w *smallWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap returns the wrapped ResponseWriter, as http.ResponseController requires.
func (w *smallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
