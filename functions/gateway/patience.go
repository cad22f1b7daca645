package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// patient is an http.RoundTripper that cancels a request if the response does not begin within the time limit (see
// route.patience).
type patient struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip implements http.RoundTripper. It returns errAsleep if it canceled the request because the function made no
// progress. The error wraps errBody if reading the client's request body failed.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	// On success, do not cancel ctx, because the caller still has to read the response body. ctx is canceled together
	// with its parent, the context of r.
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

// watch wraps a request body and controls the timer that cancels the request if the function makes no progress.
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
	// Stop the timer while Read waits for data from the client, because the function cannot make progress without the
	// data.
	w.mu.Lock()
	w.timer.Stop()
	w.mu.Unlock()
	n, err := w.ReadCloser.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = w.broken || err != nil && err != io.EOF
	// Restart the timer only if the response has not begun. After the response begins, http.Transport can still
	// read the request body, but the time limit no longer applies.
	if !w.over {
		w.timer.Reset(w.limit)
	}
	return n, err
}

// end stops the timer permanently, because the wait for the response is over.
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
