package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// postTimeout is how long the delivery of an event to a sink may take, including the start of a Knative Service
	// that is scaled to zero.
	postTimeout = 15 * time.Second
	// maxAnswer is the maximum number of bytes that the publisher reads from a sink's response. The publisher reads
	// the response only so that the connection can be reused.
	maxAnswer = 4 << 10
	// maxIdleSinkConns is the maximum number of idle connections that the publisher keeps open to the sink.
	maxIdleSinkConns = 16
)

// httpPublisher sends events to an HTTP sink as POST requests in CloudEvents structured mode.
type httpPublisher struct {
	sink   string
	client *http.Client
	closed atomic.Bool
}

func newHTTPPublisher(sink *url.URL) *httpPublisher {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = maxIdleSinkConns
	return &httpPublisher{sink: sink.String(), client: &http.Client{
		Transport: transport,
		Timeout:   postTimeout,
		// Do not follow redirects, so that events go only to the sink that EVENTS_URL_FILE names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Publish sends e to the sink. A 2xx response means that the sink has accepted the event.
func (p *httpPublisher) Publish(ctx context.Context, e event.Event) error {
	body, err := structured(e)
	if err != nil {
		return err
	}
	if p.closed.Load() {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), errClosed))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.sink, bytes.NewReader(body))
	if err != nil {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), withoutURL(err)))
	}
	req.Header.Set("Content-Type", event.ApplicationCloudEventsJSON)
	// Send the trace that the event carries, if any, instead of the current trace, because the sweep function might
	// publish the event long after the request that created the event.
	if parent, ok := e.Extensions()["traceparent"].(string); ok {
		req.Header.Set("Traceparent", parent)
		if state, ok := e.Extensions()["tracestate"].(string); ok {
			req.Header.Set("Tracestate", state)
		}
	} else {
		telemetry.Inject(ctx, req.Header)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), withoutURL(err)))
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // the content does not matter
	_ = res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("the sink responded with status %d", res.StatusCode)
	// Return problem.Unavailable even if the sink has rejected the event. For example, status 422 means that the sink
	// cannot process events from this version of the publisher, so no event can be published until an operator deploys
	// matching versions of both.
	return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
}

// Close closes the idle connections. Afterward, Publish returns errors.
func (p *httpPublisher) Close() error {
	p.closed.Store(true)
	p.client.CloseIdleConnections()
	return nil
}

// withoutURL returns err without the URL that net/http adds to its errors, because the URL might contain a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
