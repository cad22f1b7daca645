package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

// broadcast replaces RabbitMQ if no RabbitMQ server is available. It sends each published event to all functions that
// would receive the event from RabbitMQ.
type broadcast []http.Handler

// ServeHTTP sends the request to one handler after another, until a handler does not respond with 2xx. It responds with
// 2xx only if all handlers do.
func (b broadcast) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, events.MaxBody))
	if err != nil {
		fail(w, r, problem.BadRequest.Because(err, "the event could not be read"))
		return
	}
	for _, handler := range b {
		r.Body = io.NopCloser(bytes.NewReader(body))
		result := &discarded{status: http.StatusOK, header: http.Header{}}
		handler.ServeHTTP(result, r)
		if result.status/100 != 2 {
			// The publisher treats any status other than 2xx as a failure to publish the event.
			fail(w, r, problem.Unavailable.Because(fmt.Errorf("unexpected response status %d", result.status), "a function rejected the event"))
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// discarded is an http.ResponseWriter that records the status of a response and discards the body.
type discarded struct {
	status int
	header http.Header
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(status int) {
	if status >= http.StatusOK { // 1xx responses come before the final response
		d.status = status
	}
}
