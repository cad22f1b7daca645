package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// postTimeout bounds a delivery to a sink, which may have to start first: a Knative Service from zero.
	postTimeout = 15 * time.Second
	// maxAnswer bounds what is read of a sink's answer, only so that the connection can be used again.
	maxAnswer = 4 << 10
	// maxIdleSinkConns are kept to the one sink there is.
	maxIdleSinkConns = 16
)

// httpPublisher posts events to a sink, in structured mode.
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
		// An event is delivered where the settings say or not at all.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Publish posts e to the sink. 2xx means delivered. Any other 4xx or 3xx means that the sink did not take it, also 422:
// sink and publisher then do not speak of the same event, which a deployment cures, and until then publishing is
// unavailable. After a 408, a 5xx or an answer that did not come it may have been taken.
func (p *httpPublisher) Publish(ctx context.Context, e event.Event) error {
	body, err := encode(e)
	if err != nil {
		return err
	}
	if p.closed.Load() {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), errClosed))
	}
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.sink, bytes.NewReader(body))
	if err != nil {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), withoutURL(err)))
	}
	req.Header.Set("Content-Type", event.ApplicationCloudEventsJSON)
	// The trace that the event came from, where it has one: this may be a sweep, much later.
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
		err = withoutURL(err)
		if connected.Load() {
			err = unknown(err)
		}
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // what it says does not matter
	_ = res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("the sink answered %d", res.StatusCode)
	if res.StatusCode >= 500 || res.StatusCode == http.StatusRequestTimeout {
		err = unknown(err)
	}
	return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
}

// Ready knows nothing of the sink before it is asked to take an event.
func (p *httpPublisher) Ready(context.Context) error {
	if p.closed.Load() {
		return unavailable(errClosed)
	}
	return nil
}

// Close closes idle connections.
func (p *httpPublisher) Close() error {
	p.closed.Store(true)
	p.client.CloseIdleConnections()
	return nil
}

// withoutURL takes the URL out of an error of net/http: its query may hold a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
