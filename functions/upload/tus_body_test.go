package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlineRecorder records the read deadlines that a handler sets.
type deadlineRecorder struct {
	http.ResponseWriter
	deadlines []time.Time
}

func (r *deadlineRecorder) SetReadDeadline(t time.Time) error {
	r.deadlines = append(r.deadlines, t)
	return nil
}

// TestPieceBodyDeadlines checks that each read waits for tusSilence, but not beyond the request's deadline, and that
// no deadline remains after the body has ended.
func TestPieceBodyDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		deadline time.Duration // of the request, from now
		want     time.Duration // the maximum wait of a read
	}{
		"long request":  {time.Hour, tusSilence},
		"short request": {time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := &deadlineRecorder{ResponseWriter: httptest.NewRecorder()}
			start := time.Now()
			body := &pieceBody{pieces{strings.NewReader("hello")}, 5, http.NewResponseController(recorder), start.Add(c.deadline)}
			if got, err := io.ReadAll(body); err != nil || string(got) != "hello" {
				t.Fatalf("got %q and error %v, want hello", got, err)
			}
			last := len(recorder.deadlines) - 1
			for i, deadline := range recorder.deadlines[:last] {
				if wait := deadline.Sub(start); wait < c.want || wait > c.want+time.Minute {
					t.Errorf("read %d: got a deadline after %v, want %v", i, wait, c.want)
				}
			}
			if !recorder.deadlines[last].IsZero() {
				t.Errorf("got the deadline %v after the end of the body, want none", recorder.deadlines[last])
			}
		})
	}
}
