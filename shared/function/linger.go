package function

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// lingerTime bounds how long a body is read that nobody wants any more, so that the answer is not lost with the
// connection.
const lingerTime = 5 * time.Second

// Linger lets next answer before it has read the body of a request. By itself net/http first reads up to 256 KiB of
// such a body, however long the client takes over it, and behind more than that cuts the connection: the client's
// kernel then meets a reset while it sends on, and drops the answer that the client has not read yet. Here the answer goes
// out at once, and says that the connection ends; what the client still sends is read and dropped for a while (RFC 9112
// §9.6). A proxy that passes answers on before the body has come needs it for another reason: the next request on the
// connection would be lost (https://go.dev/issue/68560). Whoever waits for 100 Continue before sending is not asked to: with
// an answer given, net/http does not do that.
func Linger(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.ContentLength == 0 {
			next.ServeHTTP(w, r) // HTTP/2 ends a stream without losing its answer
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
			return // the connection is gone
		}
		_, _ = io.Copy(io.Discard, body.from) // the answer has been given: how it ends does not matter
	})
}

// watchedBody knows whether a body has been read to its end. Closing it does not: what reads on after that is linger.
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
		b.ended.Store(true) // also where it broke: nothing more will come
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.closed.Store(true)
	return nil
}

// earlyWriter ends the connection with an answer that comes before the end of the body.
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

// Unwrap lets http.ResponseController reach the connection.
func (w *earlyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
