package events

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
)

const (
	// journalPrefetch is the maximum number of events that RabbitMQ delivers before ReadJournal acknowledges them. A
	// stream requires a limit.
	journalPrefetch = 500
	// journalWait is how long ReadJournal waits for the next event before it assumes that RabbitMQ does not deliver
	// another event.
	journalWait = 5 * time.Second
	// chunkWait is how long ReadJournal waits for the next event of the last chunk of Journal. RabbitMQ delivers the
	// events of a chunk without a delay.
	chunkWait = time.Second
	// chunkLimit is how long ReadJournal reads the last chunk of Journal, and the events that are published meanwhile.
	chunkLimit = 2 * journalWait
)

// ReadJournal calls visit with each file whose event is in Journal, from the oldest to the newest event. It passes
// batches of up to journalPrefetch files. A file can occur more than once, because an event can be published more than
// once. ReadJournal returns the number of events. It reports each message that is not such an event in the log, and
// returns the number of these messages in skipped. It reads no events that are published more than chunkLimit after its
// start.
//
// If RabbitMQ is unavailable, the error wraps problem.Unavailable. If Journal does not exist, the error wraps
// problem.NotFound.
func ReadJournal(ctx context.Context, adminURL string, visit func([]file.Info) error) (events, skipped int, err error) {
	if _, err := parseURL("EVENTS_ADMIN_URL_FILE", adminURL, "amqp", "amqps"); err != nil {
		return 0, 0, err
	}
	l, err := dial(adminURL)
	switch {
	case isRefusal(err):
		return 0, 0, refused("EVENTS_ADMIN_URL_FILE", err)
	case err != nil:
		return 0, 0, problem.Unavailable.Because(err, "RabbitMQ is unavailable")
	}
	defer l.close()
	// When ctx is done, close the socket, because the AMQP library would otherwise wait indefinitely for a response.
	defer context.AfterFunc(ctx, func() { _ = l.socket.Close() })()
	last, err := l.lastOffset()
	if err == nil && last >= 0 {
		events, skipped, err = l.readJournal(ctx, last, visit)
	}
	switch {
	case err == nil:
		return events, skipped, nil
	case isRefusal(err):
		return events, skipped, refused("EVENTS_ADMIN_URL_FILE", err)
	case isMissing(err):
		return 0, 0, problem.NotFound.Because(err, "RabbitMQ has no stream "+Journal+": run setup")
	case l.conn.IsClosed() || ctx.Err() != nil:
		return events, skipped, problem.Unavailable.Because(err, "the connection to RabbitMQ was lost")
	}
	return events, skipped, err
}

// consume begins to read Journal at the given offset specification
// (https://www.rabbitmq.com/docs/streams#consuming). The caller must acknowledge the deliveries.
func (l *link) consume(from string) (*amqp.Channel, <-chan amqp.Delivery, error) {
	ch, err := l.conn.Channel()
	if err != nil {
		return nil, nil, fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Qos(journalPrefetch, 0, false); err != nil {
		return nil, nil, fmt.Errorf("limit the unacknowledged messages: %w", err)
	}
	deliveries, err := ch.Consume(Journal, "", false, false, false, false, amqp.Table{"x-stream-offset": from})
	if err != nil {
		return nil, nil, fmt.Errorf("read stream %s: %w", Journal, err)
	}
	return ch, deliveries, nil
}

// lastOffset returns the offset of the last event in Journal, or -1 if Journal is empty. RabbitMQ cannot report this
// offset, so lastOffset reads the last chunk of Journal, which contains one or more events.
func (l *link) lastOffset() (last int64, err error) {
	ch, deliveries, err := l.consume("last")
	if err != nil {
		return 0, err
	}
	defer func() { _ = ch.Close() }()
	last = -1
	// Without the limit, the loop would not end while events are published.
	end := time.Now().Add(chunkLimit)
	for wait := journalWait; time.Now().Before(end); wait = chunkWait {
		d, ok, err := next(deliveries, wait)
		if err != nil || !ok {
			return last, err
		}
		if last, err = offset(d); err != nil {
			return 0, err
		}
		if err := d.Ack(false); err != nil {
			return 0, fmt.Errorf("acknowledge message %d in stream %s: %w", last, Journal, err)
		}
	}
	return last, nil
}

// readJournal calls visit with the files of all events up to the offset last.
func (l *link) readJournal(ctx context.Context, last int64, visit func([]file.Info) error) (events, skipped int, err error) {
	ch, deliveries, err := l.consume("first")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = ch.Close() }()
	var files []file.Info
	for at := int64(-1); at < last; {
		d, ok, err := next(deliveries, journalWait)
		if err != nil {
			return events, skipped, err
		}
		if !ok {
			return events, skipped, problem.Unavailable.With("RabbitMQ has delivered only the events of stream %s up to offset %d, not up to %d", Journal, at, last)
		}
		if at, err = offset(d); err != nil {
			return events, skipped, err
		}
		if f, err := journalFile(d.Body); err != nil {
			skipped++
			slog.WarnContext(ctx, "skipped a message that is not a valid event", "stream", Journal, "offset", at, "error", err)
		} else {
			events++
			files = append(files, f)
		}
		if (events+skipped)%(journalPrefetch/2) != 0 && at < last {
			continue
		}
		if len(files) > 0 {
			if err := visit(files); err != nil {
				return events, skipped, err
			}
			files = files[:0]
		}
		if err := d.Ack(true); err != nil {
			return events, skipped, fmt.Errorf("acknowledge message %d in stream %s: %w", at, Journal, err)
		}
	}
	return events, skipped, nil
}

// journalFile returns the file that the event in the body of a message announces.
func journalFile(body []byte) (file.Info, error) {
	e, err := Parse(string(body))
	if err != nil {
		return file.Info{}, err
	}
	return fileStored(&e)
}

// next returns the next delivery. ok is false if RabbitMQ delivers nothing within wait.
func next(deliveries <-chan amqp.Delivery, wait time.Duration) (d amqp.Delivery, ok bool, err error) {
	select {
	case d, open := <-deliveries:
		if !open {
			return d, false, fmt.Errorf("read stream %s: %w", Journal, errAway)
		}
		return d, true, nil
	case <-time.After(wait):
		return d, false, nil
	}
}

// offset returns the offset of a message in a stream. RabbitMQ adds the offset to the headers of each delivery.
func offset(d amqp.Delivery) (int64, error) {
	at, ok := d.Headers["x-stream-offset"].(int64)
	if !ok {
		return 0, fmt.Errorf("read stream %s: message %s has no offset", Journal, d.MessageId)
	}
	return at, nil
}
