package events

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Depths is how many messages wait in the queues; those that are being delivered are not counted.
type Depths struct {
	// Waiting is what record has not been given yet.
	Waiting int
	// Dead is what nobody delivers any more until Redrive moves it back.
	Dead int
}

// Lengths returns how many messages wait in the RabbitMQ at eventsURL. RabbitMQ 4.2.7 and later demand that the user has
// configure or write permission on the queues. A sink of CloudEvents over HTTP keeps no messages: its Depths are 0. A broker
// that is unavailable or that refuses the user is an error that wraps problem.Unavailable. No error shows the URL.
func Lengths(ctx context.Context, eventsURL string) (Depths, error) {
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
	// The library waits for answers without a bound; without its socket it waits for none.
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
			return Depths{}, problem.Unavailable.Because(err, "RabbitMQ does not count the events: has setup run?")
		}
	}
	return depths, nil
}

// length returns how many messages wait in a queue.
func length(channel *amqp.Channel, name string) (int, error) {
	queue, err := channel.QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		return 0, fmt.Errorf("count the messages in queue %s: %w", name, err)
	}
	return queue.Messages, nil
}
