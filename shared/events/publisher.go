package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// ErrUnknown is wrapped by those errors of Publish after which the event may have been stored all the same, such as a
// confirmation that did not come in time. After any other error it surely was not, and never will be. Who publishes
// the event again must do so with the same id; who wants to take back what the event tells of must not after this one.
var ErrUnknown = errors.New("the event may have been published all the same")

// Publisher hands events to whatever keeps and delivers them. It may be used from many goroutines.
type Publisher interface {
	// Publish returns nil once the event is safe: stored by the broker and confirmed, or accepted by the sink. Every
	// other outcome is an error that wraps problem.Unavailable, and ErrUnknown where it is not known to have failed;
	// only an event that is itself invalid is an error of another kind. It takes no longer than ctx or some seconds.
	Publish(ctx context.Context, e event.Event) error
	// Ready returns an error that wraps problem.Unavailable if Publish would surely fail now, so that one need not
	// take in a large file first. It connects where there is no connection; nil is no promise.
	Ready(ctx context.Context) error
	// Close gives up the connection; Publish and Ready fail from then on. Wait for calls of Publish before.
	Close() error
}

// publishTimeout bounds Publish as a whole: connecting, waiting for a free channel, sending, and the confirmation. A
// quorum queue confirms within 10 ms, and within a few seconds while it elects a leader.
const publishTimeout = 5 * time.Second

// NewPublisher returns a publisher to a RabbitMQ (amqp://, amqps://) whose topology setup has declared, or to any sink
// of CloudEvents over HTTP (http://, https://). It makes no connection yet. Errors name EVENTS_URL and never show it:
// it holds a password.
func NewPublisher(eventsURL string) (Publisher, error) {
	u, err := parseURL("EVENTS_URL", eventsURL)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "amqp", "amqps":
		return observed{newAMQPPublisher(eventsURL), "rabbitmq"}, nil
	case "http", "https":
		return observed{newHTTPPublisher(u), "http"}, nil
	}
	return nil, fmt.Errorf("EVENTS_URL: the scheme must be amqp, amqps, http or https")
}

// observed is a Publisher that tells of what it does.
type observed struct {
	Publisher
	system string // what takes the events
}

// Publish publishes e.
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

// parseURL parses raw without ever quoting it in an error, as url.Parse does: it may hold a password.
func parseURL(variable, raw string) (*url.URL, error) {
	if raw == "" {
		return nil, fmt.Errorf("%s: it is empty", variable)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: not a URL (are reserved characters in the password percent-encoded?)", variable)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%s: the URL has no host", variable)
	}
	return u, nil
}

// encode returns the structured JSON form of e (CloudEvents JSON format).
func encode(e event.Event) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("publish event %s: %w", e.ID(), err)
	}
	return body, nil
}

// unavailable is what Publish and Ready return for err.
func unavailable(err error) error {
	return problem.Unavailable.Because(err, "events can not be published right now")
}

// unknown marks err as one after which the event may have been stored.
func unknown(err error) error {
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
