package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// dialTimeout bounds connecting: name, TCP, TLS and the AMQP handshake. On a good network it takes 2 ms.
	dialTimeout = 3 * time.Second
	// writeTimeout bounds each write to the socket. A broker in memory alarm stops reading, and a write would wait
	// for as long as the alarm lasts.
	writeTimeout = 3 * time.Second
	// heartbeat is how often both sides say that they are there; after three halves of it without a word the
	// connection is given up.
	heartbeat = 10 * time.Second
	// maxChannels bounds the channels in use at once, each with one event under way. A confirmation takes 1 ms, so
	// this is some thousand events a second; more callers wait for their turn.
	maxChannels = 16
)

var (
	errClosed  = errors.New("the publisher is closed")
	errBlocked = errors.New("the broker takes no messages at present (memory or disk alarm)")
	errReturn  = errors.New("no queue is bound to the event's type: has setup run?")
	errNack    = errors.New("the broker answered nack: a queue refused the event, such as a full one")
	errAway    = errors.New("the connection broke before the confirmation")
)

// amqpPublisher publishes to RabbitMQ over one connection, made when it is needed and again when it was lost.
type amqpPublisher struct {
	url   string
	slots chan struct{} // one for each channel in use

	mu      sync.Mutex
	link    *link    // the last connection made, possibly broken
	attempt *attempt // the one being made, nil if none
	closed  bool
}

// attempt is one try to connect that any number of callers wait for.
type attempt struct {
	done chan struct{} // closed when link or err is set
	link *link
	err  error
}

func newAMQPPublisher(eventsURL string) *amqpPublisher {
	return &amqpPublisher{url: eventsURL, slots: make(chan struct{}, maxChannels)}
}

// Publish sends e as a persistent, mandatory message with the event's type as routing key and waits until the broker
// has confirmed that every queue bound to it has stored it.
func (p *amqpPublisher) Publish(ctx context.Context, e event.Event) error {
	body, err := encode(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return unavailable(fmt.Errorf("publish event %s: wait for a channel: %w", e.ID(), ctx.Err()))
	}
	l, err := p.connect(ctx)
	if err != nil {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
	}
	c, err := l.borrow(ctx)
	if err != nil {
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
	}
	err = c.publish(ctx, amqp.Publishing{
		ContentType:  event.ApplicationCloudEventsJSON,
		DeliveryMode: amqp.Persistent,
		MessageId:    e.ID(),
		Timestamp:    e.Time(),
		Type:         e.Type(),
		Body:         body,
	})
	if err != nil {
		c.discard()
		return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
	}
	l.giveBack(c)
	return nil
}

// Ready connects if need be and says whether the broker takes messages. A broker says that it does not only to who
// has tried, so after a reconnection the first event finds out.
func (p *amqpPublisher) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := p.connect(ctx)
	if err != nil {
		return unavailable(err)
	}
	if l.blocked.Load() {
		return unavailable(errBlocked)
	}
	return nil
}

// Close closes the connection.
func (p *amqpPublisher) Close() error {
	p.mu.Lock()
	p.closed = true
	l := p.link
	p.link = nil
	p.mu.Unlock()
	if l != nil {
		l.close()
	}
	return nil
}

// connect returns the connection, made anew if it was lost. Callers at the same time share one attempt, and one that
// goes away does not end it for the others.
func (p *amqpPublisher) connect(ctx context.Context) (*link, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	if p.link != nil && !p.link.conn.IsClosed() {
		defer p.mu.Unlock()
		return p.link, nil
	}
	a := p.attempt
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		p.attempt = a
		go p.try(a)
	}
	p.mu.Unlock()
	select {
	case <-a.done:
		return a.link, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to RabbitMQ: %w", ctx.Err())
	}
}

// try makes attempt a.
func (p *amqpPublisher) try(a *attempt) {
	l, err := dial(p.url)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt = nil
	switch {
	case err != nil:
		a.err = err
	case p.closed:
		a.err = errClosed
		go l.close() // nobody waits for it
	default:
		p.link, a.link = l, l
	}
	close(a.done)
}

// dialConn connects to a RabbitMQ within dialTimeout. Closing the socket ends whatever waits on the connection.
func dialConn(amqpURL string) (*amqp.Connection, net.Conn, error) {
	var socket net.Conn
	conn, err := amqp.DialConfig(amqpURL, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: amqp.Table{"connection_name": "strongroom", "product": "strongroom"},
		Dial: func(network, address string) (net.Conn, error) {
			deadline := time.Now().Add(dialTimeout)
			c, err := (&net.Dialer{Deadline: deadline}).Dial(network, address)
			if err != nil {
				return nil, err
			}
			// Covers the handshakes; the library clears it when they are through.
			if err := c.SetDeadline(deadline); err != nil {
				_ = c.Close()
				return nil, err
			}
			socket = boundedWriter{c}
			return socket, nil
		},
	})
	if err != nil {
		if socket != nil {
			_ = socket.Close() // half a handshake is worth nothing
		}
		return nil, nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	return conn, socket, nil
}

// boundedWriter is a connection no write to which takes longer than writeTimeout: the AMQP library knows no deadlines.
type boundedWriter struct{ net.Conn }

// Write writes p within writeTimeout.
func (c boundedWriter) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
