package events

import (
	"context"
	"fmt"
	"maps"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Redrive moves the dead letters, which are events that were not processed, from DeadQueue back to Exchange. It
// returns the number of dead letters that it moved. If RabbitMQ is unavailable or does not confirm a message, the
// error wraps problem.Unavailable.
func Redrive(ctx context.Context, adminURL string) (moved int, err error) {
	if _, err := parseURL("EVENTS_ADMIN_URL_FILE", adminURL, "amqp", "amqps"); err != nil {
		return 0, err
	}
	l, err := dial(adminURL)
	if err != nil {
		return 0, problem.Unavailable.Because(err, "RabbitMQ is unavailable")
	}
	defer l.close() // dead letters that are not acknowledged stay in DeadQueue
	// When ctx is done, close the socket, because the AMQP library would otherwise wait indefinitely for a response.
	defer context.AfterFunc(ctx, func() { _ = l.socket.Close() })()
	moved, err = l.redrive(ctx)
	if err != nil && (l.conn.IsClosed() || ctx.Err() != nil) {
		return moved, problem.Unavailable.Because(err, "the connection to RabbitMQ was lost")
	}
	return moved, err
}

func (l *link) redrive(ctx context.Context) (moved int, err error) {
	from, err := l.conn.Channel()
	if err != nil {
		return 0, fmt.Errorf("open a channel: %w", err)
	}
	to, err := l.open()
	if err != nil {
		return 0, err
	}
	letters, err := length(from, DeadQueue)
	if err != nil {
		return 0, err
	}
	// Check that Queue exists, because RabbitMQ also confirms an event that only Journal has stored.
	if _, err := length(from, Queue); err != nil {
		return 0, err
	}
	// Move at most as many dead letters as DeadQueue contained at the start, so that the loop ends even if more
	// arrive.
	for moved < letters {
		letter, ok, err := from.Get(DeadQueue, false)
		if err != nil {
			return moved, fmt.Errorf("get a message from queue %s: %w", DeadQueue, err)
		}
		if !ok {
			break
		}
		if err := to.publishWithin(ctx, revived(letter)); err != nil {
			return moved, problem.Unavailable.Because(fmt.Errorf("republish message %s: %w", letter.MessageId, err),
				"RabbitMQ did not accept a dead letter for redelivery")
		}
		// Acknowledge the dead letter only after Queue has confirmed the event, so that no event is lost. If Redrive
		// stops between the two, the event is delivered twice.
		if err := letter.Ack(false); err != nil {
			return moved, fmt.Errorf("acknowledge message %s in queue %s: %w", letter.MessageId, DeadQueue, err)
		}
		moved++
	}
	return moved, nil
}

// publishWithin calls publish with publishTimeout as the time limit.
func (c *channel) publishWithin(ctx context.Context, msg amqp.Publishing) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return c.publish(ctx, msg)
}

// revived returns a copy of the dead letter d without the headers that start with "x-", because RabbitMQ added
// these headers when d became a dead letter.
func revived(d amqp.Delivery) amqp.Publishing {
	headers := maps.Clone(d.Headers)
	maps.DeleteFunc(headers, func(name string, _ any) bool { return strings.HasPrefix(name, "x-") })
	return amqp.Publishing{
		Headers:      headers,
		ContentType:  d.ContentType,
		DeliveryMode: amqp.Persistent,
		MessageId:    d.MessageId,
		Timestamp:    d.Timestamp,
		Type:         d.RoutingKey, // a dead letter keeps the routing key of its message
		Body:         d.Body,
	}
}
