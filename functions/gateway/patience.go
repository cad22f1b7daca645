package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// patient gives a function up that shows no sign of life for as long as limit before it answers.
type patient struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip implements http.RoundTripper. Its error is errAsleep when the function was given up, and errBody when the
// body could not be read.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context()) // it ends with its parent
	w := &watch{ReadCloser: r.Body, limit: p.limit, timer: time.AfterFunc(p.limit, func() { cancel(errAsleep) })}
	defer w.end()
	r = r.WithContext(ctx)
	if r.Body != nil {
		r.Body = w
	}
	answer, err := p.next.RoundTrip(r)
	switch {
	case err == nil:
		return answer, nil
	case w.hasBroken():
		err = errors.Join(errBody, err)
	case context.Cause(ctx) == errAsleep:
		err = errAsleep
	}
	cancel(err)
	return nil, err
}

// watch is a request's body whose clock stands still while the client is being waited for.
type watch struct {
	io.ReadCloser
	limit time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	over   bool // the answer has begun, or will not come
	broken bool // the client's body broke off
}

// Read implements io.Reader.
func (w *watch) Read(p []byte) (int, error) {
	w.mu.Lock()
	w.timer.Stop()
	w.mu.Unlock()
	n, err := w.ReadCloser.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = w.broken || err != nil && err != io.EOF
	if !w.over { // the rest of a body may be read when the answer has begun
		w.timer.Reset(w.limit)
	}
	return n, err
}

// end stops the clock for good.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.over = true
}

func (w *watch) hasBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}
