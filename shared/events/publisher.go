package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// ErrUnknown reports that Publish failed, but that the event might have been stored, for example because the
// confirmation did not arrive in time. The caller must not undo the change that the event reports, because the event
// might still be delivered. If the caller publishes the event again, it must use the same event ID, so that a consumer
// can recognize the duplicate. After any other error, the event has not been stored and will never be stored.
var ErrUnknown = errors.New("the event might have been published")

// Publisher sends events to RabbitMQ or to an HTTP sink. It is safe for concurrent use.
type Publisher interface {
	// Publish returns nil when RabbitMQ has confirmed that it has stored the event, or when the sink has accepted the
	// event. If the event is invalid, the error does not wrap problem.Unavailable. Every other error wraps
	// problem.Unavailable, and also wraps ErrUnknown if the event might have been stored. Publish stops waiting when
	// ctx is done. Even if ctx has no deadline, Publish returns within publishTimeout (RabbitMQ) or postTimeout (HTTP
	// sink).
	Publish(ctx context.Context, e event.Event) error
	// Ready returns an error that wraps problem.Unavailable if Publish would certainly fail. With Ready, a caller can
	// reject a large file before it receives the file. If no connection is open, Ready opens one. If Ready returns
	// nil, Publish can still fail.
	Ready(ctx context.Context) error
	// Close closes the connection. Afterward, Publish and Ready fail. Do not call Close before all calls to Publish
	// have returned, because Close can interrupt them.
	Close() error
}

// publishTimeout is how long publishing an event to RabbitMQ may take. It includes the time to connect, to wait for a
// channel, to send the event, and to wait for the confirmation. A quorum queue usually confirms an event within 10 ms,
// but the confirmation can take a few seconds while the queue elects a leader.
const publishTimeout = 5 * time.Second

// NewPublisher returns a Publisher for eventsURL, the value of EVENTS_URL. An amqp:// or amqps:// URL must refer to a
// RabbitMQ server on which setup has declared the topology. An http:// or https:// URL must refer to a sink that
// accepts CloudEvents. NewPublisher does not connect. Errors contain the name EVENTS_URL, but not the URL, because the
// URL can contain a password.
func NewPublisher(eventsURL string) (Publisher, error) {
	u, err := parseURL("EVENTS_URL", eventsURL, "amqp", "amqps", "http", "https")
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(u.Scheme, "amqp") {
		return observed{newAMQPPublisher(eventsURL), "rabbitmq"}, nil
	}
	return observed{newHTTPPublisher(u), "http"}, nil
}

// observed is a Publisher that records each call to Publish in traces and metrics.
type observed struct {
	Publisher
	system string // the receiver of the events: rabbitmq or http
}

// Publish publishes e and records the outcome.
func (o observed) Publish(ctx context.Context, e event.Event) error {
	ctx, end := telemetry.Publishing(ctx, o.system, e.Extensions())
	err := o.Publisher.Publish(ctx, e)
	switch {
	case err == nil:
		end("confirmed")
	case errors.Is(err, ErrUnknown):
		end("unknown")
	default:
		end("failed")
	}
	return err
}

// parseURL parses the value of a setting as a URL with one of the given schemes. Its errors contain the setting's name.
// Unlike errors from url.Parse, they do not contain the URL, because the URL might contain a password.
func parseURL(variable, raw string, schemes ...string) (*url.URL, error) {
	if raw == "" {
		return nil, fmt.Errorf("%s: must not be empty", variable)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: invalid URL (are reserved characters in the password percent-encoded?)", variable)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%s: the URL has no host", variable)
	}
	if !slices.Contains(schemes, u.Scheme) {
		last := len(schemes) - 1
		return nil, fmt.Errorf("%s: the scheme must be %s or %s", variable, strings.Join(schemes[:last], ", "), schemes[last])
	}
	return u, nil
}

// structured returns e in the CloudEvents JSON event format, as structured mode requires.
func structured(e event.Event) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	return body, nil
}

// unavailable returns a problem.Unavailable for Publish and Ready, with err as the cause.
func unavailable(err error) error {
	return problem.Unavailable.Because(err, "events cannot be published at the moment")
}

// unknown returns an error that wraps err and ErrUnknown.
func unknown(err error) error {
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
