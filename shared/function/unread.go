package function

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// lingerTime is how long Linger keeps reading a request body after it has sent the response. Linger reads the rest of
// the body so that the client does not lose the response.
const lingerTime = 5 * time.Second

// Linger returns a handler that calls next and ensures that the client receives the response. If next does not read
// the whole request body, the handler sends the response immediately, with "Connection: close". Then it reads and
// discards the rest of the body for at most lingerTime, as RFC 9112, section 9.6, recommends.
//
// Without Linger, net/http would first read up to 256 KiB of the unread body, without a time limit. If the body were
// longer, net/http would close the connection. The client's kernel would then receive a reset while the client is
// still sending the body, and would discard the response before the client has read it.
//
// Linger is also necessary if a proxy forwards the response before the request body has ended. Without Linger, the
// next request on the proxy's connection would be lost (https://go.dev/issue/68560).
//
// A client that waits for 100 (Continue) never has to send the body that Linger discards, because net/http does not
// send 100 (Continue) after a response.
func Linger(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.ContentLength == 0 {
			next.ServeHTTP(w, r) // HTTP/2 can end a stream without losing the response
			return
		}
		body := &watchedBody{from: r.Body}
		watched := r.WithContext(r.Context())
		watched.Body = body
		next.ServeHTTP(&earlyWriter{w, body}, watched)
		if body.ended.Load() {
			return
		}
		rc := http.NewResponseController(w)
		if rc.Flush() != nil || rc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
			return // the connection is closed
		}
		_, _ = io.Copy(io.Discard, body.from) // an error does not matter, because the response has been sent
	})
}

// watchedBody is a request body that records whether it has been read to its end. Its Close method does not close the
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
		// No more data will arrive, because the body was read to its end or reading it failed. Only after a timeout can
		// the rest of the body still arrive.
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
// feature, the queue-proxy and the activator forward a response before the request body has ended, and then close the
// connection without notifying the proxy in front of them. The next request on that connection can then fail with a
// 502. In tests without EndSmallBodies, up to a third of the requests failed if the function had not read the body of
// the request before.
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
