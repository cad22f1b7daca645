package function

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// lingerTime is how long Linger keeps reading a request body after it has sent the response. If the server closed the
// connection while data was unread, the client could lose the response.
const lingerTime = 5 * time.Second

// Linger returns a handler that calls next. If next does not read the whole request body, the handler sends the
// response with "Connection: close", and then discards the rest of the body (RFC 9112, section 9.6).
func Linger(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.ContentLength == 0 {
			next.ServeHTTP(w, r) // HTTP/2 can end a stream without losing the response
			return
		}
		// If the response begins before the request body ends, earlyWriter sets "Connection: close". If a proxy reused
		// the connection after such a response, the proxy's next request could be lost (https://go.dev/issue/68560).
		body := &watchedBody{from: r.Body}
		watched := r.WithContext(r.Context())
		watched.Body = body
		next.ServeHTTP(&earlyWriter{w, body}, watched)
		if body.ended.Load() {
			return
		}
		// Send the response now, because net/http would otherwise first read up to 256 KiB of the body, without a time
		// limit.
		rc := http.NewResponseController(w)
		// After rc.Flush has sent the response, net/http does not send status 100 (Continue), so a client that is
		// waiting for this status does not send the body.
		if rc.Flush() != nil || rc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
			return // the connection is closed
		}
		// If the connection were closed while the client is still sending, the client's kernel would receive a
		// reset and discard the response.
		_, _ = io.Copy(io.Discard, body.from) // an error does not matter, because the response has been sent
	})
}

// watchedBody is a request body that records whether it has been read to its end. Close does not close the
// underlying body, so that Linger can still read the rest.
type watchedBody struct {
	from          io.Reader
	ended, closed atomic.Bool
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.from.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// After any error except a timeout, no more data will arrive.
		b.ended.Store(true)
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.closed.Store(true)
	return nil
}

// earlyWriter is a ResponseWriter that sets "Connection: close" if the response begins before the request body has
// been read to its end.
type earlyWriter struct {
	http.ResponseWriter
	body *watchedBody
}

// WriteHeader implements http.ResponseWriter.
func (w *earlyWriter) WriteHeader(status int) {
	if status >= 200 && !w.body.ended.Load() {
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap returns the wrapped ResponseWriter, as http.ResponseController requires.
func (w *earlyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

const (
	// smallBody is the maximum length of a request body that EndSmallBodies reads, in bytes. Reading such a
	// body rarely delays the response, because the client has usually sent the whole body already.
	smallBody = 64 << 10
	// smallTime is how long EndSmallBodies waits for the end of a small body.
	smallTime = time.Second
)

// EndSmallBodies returns a handler that calls next and reads a small request body to its end before the response
// begins. Every function that enables features.knative.dev/http-full-duplex must use this handler.
func EndSmallBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Do not read the body if the request has an Expect header, because reading would prompt the client to send a
		// body that is not needed. Do not read a body of unknown length, because it might be endless.
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
		// Read the body before the response begins. Otherwise, with http-full-duplex, queue-proxy and the activator
		// would close the connection without notifying the proxy in front of them, and the proxy's next request could
		// fail with status 502.
		w.read()
	}
	w.ResponseWriter.WriteHeader(status)
}

// read discards the request body, but stops after smallTime. After the response, Linger discards any remaining part
// of the body.
func (w *smallWriter) read() {
	rc := http.NewResponseController(w.ResponseWriter)
	if rc.SetReadDeadline(time.Now().Add(smallTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, w.body)
	// Clear the deadline, because net/http would otherwise cancel the request when the deadline passes. net/http
	// sets a new deadline for the next request.
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
