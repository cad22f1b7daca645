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
		// An interrupted body has also ended. After a timeout, the body has not ended, because the rest can still
		// arrive.
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
