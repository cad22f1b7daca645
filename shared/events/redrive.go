package events

import (
	"context"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Redrive moves the dead letters that are there when it begins back to where they were published, and returns how many
// it has moved. Dead letters are normal: the receive adapter rejects what it has in flight whenever it stops, and events
// outlast their retries when the catalogue is away for long. A letter leaves DeadQueue only once Queue has confirmed it,
// so none is lost, and one may come twice; poison comes back here. The broker's user needs what DeclareTopology needs.
// A broker that is away or does not confirm is an error that wraps problem.Unavailable. No error shows the URL.
func Redrive(ctx context.Context, adminURL string) (moved int, err error) {
	if err := checkAdminURL(adminURL); err != nil {
		return 0, err
	}
	l, err := dial(adminURL)
	if err != nil {
		return 0, problem.Unavailable.Because(err, "RabbitMQ can not be reached")
	}
	defer l.close() // a letter that is not acknowledged by then stays in DeadQueue
	// The library waits for answers without a bound; without its socket it waits for none.
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
	for moved < letters {
		letter, ok, err := from.Get(DeadQueue, false)
		if err != nil {
			return moved, fmt.Errorf("get a message from queue %s: %w", DeadQueue, err)
		}
		if !ok {
			break
		}
		if err := to.publishWithin(ctx, revived(letter)); err != nil {
			return moved, problem.Unavailable.Because(fmt.Errorf("publish message %s again: %w", letter.MessageId, err),
				"RabbitMQ does not take the dead letter back")
		}
		if err := letter.Ack(false); err != nil {
			return moved, fmt.Errorf("take message %s out of queue %s: %w", letter.MessageId, DeadQueue, err)
		}
		moved++
	}
	return moved, nil
}

// publishWithin is publish with a bound of its own.
func (c *channel) publishWithin(ctx context.Context, msg amqp.Publishing) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return c.publish(ctx, msg)
}

// revived is the message that became the dead letter d, without what the broker noted on it.
func revived(d amqp.Delivery) amqp.Publishing {
	headers := amqp.Table{}
	for name, value := range d.Headers {
		if !strings.HasPrefix(name, "x-") {
			headers[name] = value
		}
	}
	return amqp.Publishing{
		Headers:      headers,
		ContentType:  d.ContentType,
		DeliveryMode: amqp.Persistent,
		MessageId:    d.MessageId,
		Timestamp:    d.Timestamp,
		Type:         d.RoutingKey, // dead letters keep the key that they were published with
		Body:         d.Body,
	}
}
