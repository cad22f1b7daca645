package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// patient is an http.RoundTripper that cancels a request if, before the response begins, the function makes no
// progress for longer than the given limit. See route.patience for what counts as progress.
type patient struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip implements http.RoundTripper. If the function made no progress, the error is errAsleep. If the client's
// request body could not be read, the error wraps errBody.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	// Do not cancel ctx on success, because the caller reads the response body after RoundTrip returns. ctx ends when
	// its parent, the context of r, ends.
	ctx, cancel := context.WithCancelCause(r.Context())
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

// watch is a request body that controls the timer of a request. While Read waits for the client, the timer is stopped,
// because the function cannot make progress during that time. When Read returns, the timer starts again with the full
// limit.
type watch struct {
	io.ReadCloser
	limit time.Duration

	mu     sync.Mutex
	timer  *time.Timer
	over   bool // the response has begun, or the request has failed
	broken bool // reading the client's request body failed
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
	// After the response has begun, http.Transport can still read the body, but the timer must stay stopped.
	if !w.over {
		w.timer.Reset(w.limit)
	}
	return n, err
}

// end stops the timer and prevents Read from starting it again.
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
