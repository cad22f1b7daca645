package events

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// Publisher sends events to RabbitMQ or to an HTTP sink. It is safe for concurrent use.
type Publisher interface {
	// Publish returns nil after RabbitMQ has stored the event or the sink has accepted it. If the event is valid, every
	// error wraps problem.Unavailable. After an error, the event might have been published nevertheless. To publish the
	// event again, the caller must reuse the event ID, so that consumers recognize the duplicate.
	Publish(ctx context.Context, e event.Event) error
	// Close closes the connection. Afterward, Publish fails. Do not call Close before all calls to Publish have
	// returned, because Close can interrupt them.
	Close() error
}

// publishTimeout is how long publishing an event to RabbitMQ may take. A quorum queue usually confirms events
// within 10 ms, but needs a few seconds to elect a leader.
const publishTimeout = 5 * time.Second

// NewPublisher returns a Publisher for the URL in EVENTS_URL_FILE, which is the URL of a RabbitMQ server or of an HTTP
// sink for CloudEvents. It does not connect.
func NewPublisher(eventsURL string) (Publisher, error) {
	u, err := parseURL("EVENTS_URL_FILE", eventsURL, "amqp", "amqps", "http", "https")
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
	end(err)
	return err
}

// parseURL parses a setting's value as a URL with one of the given schemes. Errors contain the setting's name, but
// not the URL, which might contain a password.
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
	if strings.Contains(u.Host, ",") {
		return nil, fmt.Errorf("%s: the URL must have only one host, such as the name of a load balancer", variable)
	}
	disables := func(verify string) bool { return verify != "verify_peer" }
	if strings.HasPrefix(u.Scheme, "amqp") && slices.ContainsFunc(u.Query()["verify"], disables) {
		// The AMQP library ignores this parameter of RabbitMQ URLs, and always verifies the server.
		return nil, fmt.Errorf("%s: the parameter verify must be verify_peer, because the identity of the server must be verified", variable)
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

// unavailable returns a problem.Unavailable for Publish, with err as the cause.
func unavailable(err error) error {
	return problem.Unavailable.Because(err, "events cannot be published at the moment")
}
