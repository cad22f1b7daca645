package function

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// lingerTime bounds how long a body is read that nobody wants any more, so that the answer is not lost with the
	// connection.
	lingerTime = 5 * time.Second
	// smallBody, in bytes, is read before the answer, if it comes within smallTime: it is on its way anyhow.
	smallBody = 64 << 10
	smallTime = time.Second
)

// Linger lets next answer before it has read the body of a request. By itself net/http first reads up to 256 KiB of
// such a body, however long the client takes over it, and behind more than that cuts the connection: the client's
// kernel then meets a reset while it sends on, and drops the answer that the client has not read yet. Here the answer goes
// out at once, and says that the connection ends; what the client still sends is read and dropped for a while (RFC 9112
// §9.6). A proxy that passes answers on before the body has come needs it for another reason: the next request on the
// connection would be lost (https://go.dev/issue/68560). Whoever waits for 100 Continue before sending is not asked to: with
// an answer given, net/http does not do that.
func Linger(next http.Handler) http.Handler { return linger(next, false) }

// linger is Linger. With small, a small body ends before the answer: the connection then goes on, and so do those of
// proxies on the way. Of these, Knative's queue-proxy and activator do not tell the one in front of them that a connection
// ends, if they may pass on answers early (features.knative.dev/http-full-duplex): after small requests that were refused, up
// to a third of the next ones on the connection got a 502.
func linger(next http.Handler, small bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.ContentLength == 0 {
			next.ServeHTTP(w, r) // HTTP/2 ends a stream without losing its answer
			return
		}
		body := &watchedBody{from: r.Body}
		watched := r.WithContext(r.Context())
		watched.Body = body
		// Reading would ask for a body that waits for 100 (Continue), and take from a stream what is for who answers it.
		small := small && r.ContentLength > 0 && r.ContentLength <= smallBody && r.Header.Get("Expect") == ""
		next.ServeHTTP(&earlyWriter{w, body, small}, watched)
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
	if err != nil {
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
	body  *watchedBody
	small bool
}

// WriteHeader implements http.ResponseWriter.
func (w *earlyWriter) WriteHeader(status int) {
	if status >= 200 && !w.body.ended.Load() && !w.readSmall() {
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(status)
}

// readSmall reads the rest of a body that is small, and tells whether it came.
func (w *earlyWriter) readSmall() bool {
	if !w.small {
		return false
	}
	w.small = false
	rc := http.NewResponseController(w.ResponseWriter)
	if rc.SetReadDeadline(time.Now().Add(smallTime)) != nil {
		return false // the connection is gone
	}
	if _, err := io.Copy(io.Discard, w.body.from); err != nil {
		return false
	}
	w.body.ended.Store(true)
	return rc.SetReadDeadline(time.Time{}) == nil // of the next request it is set anew
}

// Unwrap lets http.ResponseController reach the connection.
func (w *earlyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
