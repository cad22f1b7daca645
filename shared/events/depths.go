package events

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Depths contains the number of messages that are waiting in each queue. Messages that are being delivered are not
// counted.
type Depths struct {
	// Waiting is the number of events in Queue that are waiting to be delivered to the record function.
	Waiting int
	// Dead is the number of dead letters in DeadQueue. RabbitMQ does not deliver a dead letter again until Redrive has
	// moved it back to Exchange.
	Dead int
}

// QueueDepths returns the number of messages that are waiting in Queue and in DeadQueue. eventsURL is the value of
// EVENTS_URL. If eventsURL is a RabbitMQ URL, its user needs configure or write permission for both queues, because
// RabbitMQ 4.2.7 and later require one of these permissions. If it is the URL of an HTTP sink, both numbers are 0,
// because a sink stores no messages.
//
// If RabbitMQ is unavailable or denies the user access, the error wraps problem.Unavailable. No error shows the URL,
// because it contains a password.
func QueueDepths(ctx context.Context, eventsURL string) (Depths, error) {
	u, err := parseURL("EVENTS_URL", eventsURL)
	if err != nil {
		return Depths{}, err
	}
	switch u.Scheme {
	case "http", "https":
		return Depths{}, nil
	case "amqp", "amqps":
	default:
		return Depths{}, fmt.Errorf("EVENTS_URL: the scheme must be amqp, amqps, http or https")
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	l, err := dial(eventsURL)
	if err != nil {
		return Depths{}, unavailable(err)
	}
	defer l.close()
	// When ctx is done, close the socket, because the AMQP library would otherwise wait for a response without a limit.
	defer context.AfterFunc(ctx, func() { _ = l.socket.Close() })()
	channel, err := l.conn.Channel()
	if err != nil {
		return Depths{}, problem.Unavailable.Because(fmt.Errorf("open a channel: %w", err), "the connection to RabbitMQ was lost")
	}
	var depths Depths
	for name, n := range map[string]*int{Queue: &depths.Waiting, DeadQueue: &depths.Dead} {
		if *n, err = length(channel, name); err != nil {
			if isRefusal(err) {
				err = refused("EVENTS_URL", err)
			}
			return Depths{}, problem.Unavailable.Because(err, "the messages in RabbitMQ cannot be counted (has setup run?)")
		}
	}
	return depths, nil
}

// length returns the number of messages that are waiting in the given queue.
func length(channel *amqp.Channel, name string) (int, error) {
	queue, err := channel.QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		return 0, fmt.Errorf("count the messages in queue %s: %w", name, err)
	}
	return queue.Messages, nil
}
