package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// Where events travel in RabbitMQ. The names are fixed: the RabbitmqSource and the permissions of the broker's users
// name them too.
const (
	// Exchange takes all events; a topic exchange, its routing keys are the events' types.
	Exchange = "strongroom.events"
	// Queue holds the TypeFileStored events until record has catalogued them.
	Queue = "strongroom.files"
	// DeadExchange takes what a queue gives up; a topic exchange, its routing keys are the events' types.
	DeadExchange = "strongroom.dead"
	// DeadQueue keeps what Queue gave up until Redrive moves it back.
	DeadQueue = "strongroom.files.dead"
)

const (
	// deliveryLimit is how often Queue hands out a message whose consumer died with it before it is dead-lettered. It
	// is the default of RabbitMQ 4, written out because RabbitMQ 3 has none. Retries of the source do not count.
	deliveryLimit = 20
	// noDeliveryLimit stands for none on DeadQueue, which has nowhere to give a message up to and would lose it. (The
	// official -1 is refused by RabbitMQ 3.)
	noDeliveryLimit = 1 << 30
	// declareTimeout bounds DeclareTopology; the first quorum queue of a new cluster takes a second or two.
	declareTimeout = 30 * time.Second
)

// DeclareTopology declares the exchanges, queues and bindings in the RabbitMQ at adminURL. It changes nothing that is
// there already, and may run any number of times, also side by side. The broker's user needs configure, write and read
// on `strongroom\..*`. A broker that is unavailable is an error that wraps problem.Unavailable; an exchange or queue that
// exists with other arguments, which RabbitMQ cannot change, one that wraps problem.Conflict. A broker that refuses the
// credentials or a permission of the user is another error. No error shows the URL.
func DeclareTopology(ctx context.Context, adminURL string) error {
	if err := checkAdminURL(adminURL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	conn, socket, err := dialConn(adminURL)
	switch {
	case isRefusal(err):
		return refused("EVENTS_ADMIN_URL", err)
	case err != nil:
		return problem.Unavailable.Because(err, "RabbitMQ can not be reached")
	}
	// The library waits for answers without a bound; without its socket it waits for none.
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	ch, err := conn.Channel()
	if err == nil {
		err = declare(ch)
	}
	var refusal *amqp.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return problem.Unavailable.Because(fmt.Errorf("declare the topology: %w: %w", ctx.Err(), err), "RabbitMQ did not answer in time")
	case errors.As(err, &refusal) && refusal.Code == amqp.PreconditionFailed:
		return problem.Conflict.Because(err, "RabbitMQ has it with other arguments, which can not be changed: "+
			"move what is in it elsewhere, delete it, and run setup again")
	case isRefusal(err):
		return refused("EVENTS_ADMIN_URL", err)
	case conn.IsClosed():
		return problem.Unavailable.Because(err, "the connection to RabbitMQ was lost")
	}
	return err
}

// isRefusal reports whether err says that RabbitMQ refuses the credentials or a permission of the user.
func isRefusal(err error) bool {
	var refusal *amqp.Error
	return errors.As(err, &refusal) && refusal.Code == amqp.AccessRefused
}

// refused adds to a refusal the name of the setting that has the user's credentials. The result does not wrap
// problem.Unavailable: waiting does not help.
func refused(setting string, err error) error {
	return fmt.Errorf("%s: the server refuses the user: %w", setting, err)
}

// checkAdminURL returns an error, which does not show the URL, unless it is one of RabbitMQ.
func checkAdminURL(adminURL string) error {
	u, err := parseURL("EVENTS_ADMIN_URL", adminURL)
	if err != nil {
		return err
	}
	if u.Scheme != "amqp" && u.Scheme != "amqps" {
		return fmt.Errorf("EVENTS_ADMIN_URL: the scheme must be amqp or amqps")
	}
	return nil
}

// declare declares everything on ch. The dead letters' way comes first: there is no moment at which a message could
// be given up to nothing.
func declare(ch *amqp.Channel) error {
	for _, name := range []string{DeadExchange, Exchange} {
		if err := ch.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
			return fmt.Errorf("declare exchange %s: %w", name, err)
		}
	}
	queues := []struct {
		name, exchange, key string
		args                amqp.Table
	}{
		{DeadQueue, DeadExchange, "#", amqp.Table{
			amqp.QueueTypeArg:  amqp.QueueTypeQuorum,
			"x-delivery-limit": noDeliveryLimit,
		}},
		{Queue, Exchange, TypeFileStored, amqp.Table{
			amqp.QueueTypeArg:  amqp.QueueTypeQuorum,
			"x-delivery-limit": deliveryLimit,
			// A dead letter leaves Queue only when DeadQueue has confirmed it; this demands reject-publish.
			"x-dead-letter-exchange": DeadExchange,
			"x-dead-letter-strategy": "at-least-once",
			amqp.QueueOverflowArg:    amqp.QueueOverflowRejectPublish,
		}},
	}
	for _, q := range queues {
		if _, err := ch.QueueDeclare(q.name, true, false, false, false, q.args); err != nil {
			return fmt.Errorf("declare queue %s: %w", q.name, err)
		}
		if err := ch.QueueBind(q.name, q.key, q.exchange, false, nil); err != nil {
			return fmt.Errorf("bind queue %s to exchange %s: %w", q.name, q.exchange, err)
		}
	}
	return nil
}
