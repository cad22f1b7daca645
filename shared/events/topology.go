package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/problem"
)

// These are the names of the RabbitMQ exchanges and queues. If you change a name, also change it in the
// RabbitmqSource and in the permissions of the RabbitMQ users.
const (
	// Exchange is the topic exchange to which all events are published. The routing key of an event is the event's
	// type.
	Exchange = "strongroom.events"
	// Queue holds the TypeFileStored events until the record function has added the files to the catalog.
	Queue = "strongroom.files"
	// DeadExchange is the topic exchange for dead letters. A dead letter keeps the routing key of its event.
	DeadExchange = "strongroom.dead"
	// DeadQueue holds the dead letters of Queue until Redrive moves them back to Exchange.
	DeadQueue = "strongroom.files.dead"
	// Journal is a stream that keeps a copy of each TypeFileStored event after the event has been delivered. After a
	// restore, ReadJournal returns the files that the backup does not contain. If Queue is missing and Journal exists,
	// RabbitMQ confirms an event that no queue delivers. The sweep function then fails, because it cannot count Queue.
	Journal = "strongroom.journal"
)

const (
	// deliveryLimit is how many failed deliveries of a message, for example because of consumer crashes, Queue allows.
	// After one more failure, the message becomes a dead letter. The value is the default of RabbitMQ 4. It is set
	// explicitly because RabbitMQ 3 has no default limit.
	deliveryLimit = 20
	// noDeliveryLimit is the delivery limit of DeadQueue. RabbitMQ would drop a message that exceeded the limit,
	// because DeadQueue has no dead-letter exchange. The value is therefore too high for any message to exceed.
	// RabbitMQ 3 rejects -1, the documented value for "no limit".
	noDeliveryLimit = 1 << 30
	// journalAge and journalBytes limit the age and the size of Journal. RabbitMQ deletes whole segments, so Journal
	// can contain older events and up to one more segment. An event with a short file name has about 700 bytes.
	journalAge   = "30D"
	journalBytes = 500_000_000
	// journalSegmentBytes is the size of a segment. RabbitMQ's default is 500 MB.
	journalSegmentBytes = 50_000_000
	// declareTimeout is how long DeclareTopology may take. It allows for a new cluster, in which declaring the first
	// quorum queue takes one to two seconds.
	declareTimeout = 30 * time.Second
)

// DeclareTopology declares the exchanges, queues and bindings. The error wraps problem.Unavailable if RabbitMQ is
// unavailable, or problem.Conflict if an exchange or a queue already exists with different arguments.
func DeclareTopology(ctx context.Context, adminURL string) error {
	if _, err := parseURL("EVENTS_ADMIN_URL_FILE", adminURL, "amqp", "amqps"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, declareTimeout)
	defer cancel()
	conn, socket, err := dialConn(adminURL)
	switch {
	case isRefusal(err):
		return refused("EVENTS_ADMIN_URL_FILE", err)
	case err != nil:
		return problem.Unavailable.Because(err, "RabbitMQ is unavailable")
	}
	// When ctx is done, close the socket, because the AMQP library would otherwise wait indefinitely for a response.
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	ch, err := conn.Channel()
	// The user in adminURL needs the configure, write and read permissions for `strongroom\..*`. Repeated and
	// concurrent calls are safe, because they do not change existing exchanges and queues.
	if err == nil {
		err = declare(ch)
	}
	var refusal *amqp.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return problem.Unavailable.Because(fmt.Errorf("declare the topology: %w: %w", ctx.Err(), err), "RabbitMQ did not respond in time")
	case errors.As(err, &refusal) && refusal.Code == amqp.PreconditionFailed:
		// The messages in the queue are not needed, because sweep publishes the events of files without a catalog
		// entry.
		return problem.Conflict.Because(err, "the exchange or queue exists with different arguments, which RabbitMQ cannot change: "+
			"delete it, and run setup again")
	case isRefusal(err):
		return refused("EVENTS_ADMIN_URL_FILE", err)
	case conn.IsClosed():
		return problem.Unavailable.Because(err, "the connection to RabbitMQ was lost")
	case isMissing(err):
		// RabbitMQ creates what does not exist. It reports a missing queue only if the queue's nodes are not ready, for
		// example after a restart.
		return problem.Unavailable.Because(err, "a queue is not ready")
	}
	return err
}

// isRefusal reports whether err means that RabbitMQ rejects the credentials or that the user lacks a permission.
func isRefusal(err error) bool {
	var refusal *amqp.Error
	return errors.As(err, &refusal) && refusal.Code == amqp.AccessRefused
}

// isMissing reports whether err means that an exchange or a queue does not exist.
func isMissing(err error) bool {
	var refusal *amqp.Error
	return errors.As(err, &refusal) && refusal.Code == amqp.NotFound
}

// refused returns err with the name of the setting that contains the RabbitMQ user's credentials. The result does not
// wrap problem.Unavailable, because a retry would also fail.
func refused(setting string, err error) error {
	return fmt.Errorf("%s: RabbitMQ denied the user access: %w", setting, err)
}

// declare declares the exchanges, queues and bindings on the channel ch. It declares DeadExchange and DeadQueue before
// Queue, so that RabbitMQ can store every dead letter from Queue.
//
// The queues have no x-quorum-initial-group-size argument. Its default is 3, and it has no effect on nodes that have
// not joined the cluster yet. For the same reason, Journal has no x-initial-cluster-size argument. Its default is all
// nodes. RabbitMQ compares this argument with that of an existing queue, so adding it would break
// the setup of existing systems.
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
			amqp.QueueTypeArg: amqp.QueueTypeQuorum,
			// Retries by the RabbitmqSource do not count toward the limit, because they do not return the message
			// to Queue.
			"x-delivery-limit": deliveryLimit,
			// With the at-least-once strategy, RabbitMQ removes a dead letter from Queue only after DeadQueue has
			// confirmed it. This strategy requires the reject-publish overflow behavior.
			"x-dead-letter-exchange": DeadExchange,
			"x-dead-letter-strategy": "at-least-once",
			amqp.QueueOverflowArg:    amqp.QueueOverflowRejectPublish,
		}},
		{Journal, Exchange, TypeFileStored, amqp.Table{
			amqp.QueueTypeArg:                 amqp.QueueTypeStream,
			amqp.StreamMaxAgeArg:              journalAge,
			amqp.StreamMaxLenBytesArg:         int64(journalBytes),
			amqp.StreamMaxSegmentSizeBytesArg: int64(journalSegmentBytes),
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

// Depths contains the number of messages that are waiting in each queue. Messages that are being delivered are not
// counted.
type Depths struct {
	// Waiting is the number of events in Queue that are waiting to be delivered to the record function.
	Waiting int
	// Dead is the number of dead letters in DeadQueue. RabbitMQ does not deliver a dead letter again until Redrive has
	// moved it back to Exchange.
	Dead int
}

// QueueDepths counts the waiting messages in Queue and DeadQueue. For an HTTP sink, both counts are 0. If RabbitMQ
// is unavailable or denies access, the error wraps problem.Unavailable.
func QueueDepths(ctx context.Context, eventsURL string) (Depths, error) {
	u, err := parseURL("EVENTS_URL_FILE", eventsURL, "amqp", "amqps", "http", "https")
	if err != nil || !strings.HasPrefix(u.Scheme, "amqp") {
		return Depths{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	l, err := dial(eventsURL)
	if err != nil {
		return Depths{}, unavailable(err)
	}
	defer l.close()
	// When ctx is done, close the socket, because the AMQP library would otherwise wait indefinitely for a response.
	defer context.AfterFunc(ctx, func() { _ = l.socket.Close() })()
	channel, err := l.conn.Channel()
	if err != nil {
		return Depths{}, problem.Unavailable.Because(fmt.Errorf("open a channel: %w", err), "the connection to RabbitMQ was lost")
	}
	var depths Depths
	for name, n := range map[string]*int{Queue: &depths.Waiting, DeadQueue: &depths.Dead} {
		if *n, err = length(channel, name); err != nil {
			if isRefusal(err) {
				err = refused("EVENTS_URL_FILE", err)
			}
			return Depths{}, problem.Unavailable.Because(err, "the messages in RabbitMQ cannot be counted (has setup run?)")
		}
	}
	return depths, nil
}

// length returns the number of messages that are waiting in the given queue.
func length(channel *amqp.Channel, name string) (int, error) {
	// For a passive declaration, RabbitMQ 4.2.7 and later require the configure or write permission for the queue.
	queue, err := channel.QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		return 0, fmt.Errorf("count the messages in queue %s: %w", name, err)
	}
	return queue.Messages, nil
}
