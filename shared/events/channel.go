package events

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// openTimeout is how long opening a channel may take. After this time, the connection is closed, because the AMQP
	// library would otherwise wait indefinitely.
	openTimeout = 3 * time.Second
	// closeTimeout is how long closing a connection may take.
	closeTimeout = 2 * time.Second
)

// link is a connection to RabbitMQ, together with the connection's idle channels, which can be reused.
type link struct {
	conn    *amqp.Connection
	socket  net.Conn
	blocked atomic.Bool // RabbitMQ has reported that it is not accepting messages

	mu   sync.Mutex
	idle []*channel
}

// dial connects to RabbitMQ and returns the connection as a link. The link's blocked field is true while RabbitMQ
// reports that it is not accepting messages.
func dial(amqpURL string) (*link, error) {
	conn, socket, err := dialConn(amqpURL)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, socket: socket}
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	go func() {
		for b := range blocks { // the library closes blocks with the connection
			l.blocked.Store(b.Active)
		}
	}()
	return l, nil
}

// close closes the connection and the socket. It ignores errors, because no message is in transit, so no message can
// be lost.
func (l *link) close() {
	_ = l.conn.CloseDeadline(time.Now().Add(closeTimeout))
	_ = l.socket.Close()
}

// borrow returns a channel for the exclusive use of the caller. The caller must later pass the channel to giveBack
// or call the channel's discard method.
func (l *link) borrow(ctx context.Context) (*channel, error) {
	if l.blocked.Load() {
		return nil, errBlocked
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	for n := len(l.idle); n > 0; n = len(l.idle) {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		if !c.ch.IsClosed() {
			l.mu.Unlock()
			return c, nil
		}
	}
	l.mu.Unlock()

	type result struct {
		c   *channel
		err error
	}
	opened := make(chan result, 1)
	go func() {
		c, err := l.open()
		opened <- result{c, err}
	}()
	select {
	case r := <-opened:
		return r.c, r.err
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				l.giveBack(r.c) // the next caller can use the channel
			}
		}()
		return nil, fmt.Errorf("open a channel: %w", ctx.Err())
	}
}

// giveBack makes c available to later calls to borrow.
func (l *link) giveBack(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, c)
}

// open opens a channel in confirm mode. If this takes longer than openTimeout, open closes the connection's socket, so
// that the blocked calls to the AMQP library return.
func (l *link) open() (*channel, error) {
	overdue := time.AfterFunc(openTimeout, func() { _ = l.socket.Close() })
	defer overdue.Stop()
	ch, err := l.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	c := &channel{
		ch:      ch,
		returns: ch.NotifyReturn(make(chan amqp.Return, 1)),
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
	}
	if err := ch.Confirm(false); err != nil {
		c.discard()
		return nil, fmt.Errorf("open a channel: enable confirm mode: %w", err)
	}
	return c, nil
}

// channel is an AMQP channel in confirm mode. At most one event is in transit on a channel, so every returned
// message and channel exception belongs to that event.
type channel struct {
	ch      *amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
}

// publish sends msg and waits for the confirmation.
// After an error, the caller must discard the channel.
func (c *channel) publish(ctx context.Context, msg amqp.Publishing) error {
	type result struct {
		confirmation *amqp.DeferredConfirmation
		err          error
	}
	sent := make(chan result, 1)
	go func() { // this call can block and does not accept a context
		d, err := c.ch.PublishWithDeferredConfirm(Exchange, msg.Type, true, false, msg)
		sent <- result{d, err}
	}()
	var r result
	select {
	case r = <-sent:
	case <-ctx.Done():
		return fmt.Errorf("send the message: %w", ctx.Err())
	}
	if r.err != nil {
		return fmt.Errorf("send the message: %w", r.err)
	}
	ack, err := r.confirmation.WaitContext(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the confirmation: %w", err)
	case ack:
		return c.returned()
	}
	return c.unconfirmed()
}

// returned reports an error if RabbitMQ has sent the message back because no queue matches it. An acknowledgment alone
// does not mean that a queue has stored the message, because RabbitMQ also acknowledges messages that it sends back. A
// returned message arrives before its acknowledgment, so returned does not wait.
func (c *channel) returned() error {
	select {
	case r, ok := <-c.returns:
		if ok {
			return fmt.Errorf("%w: %d %s", errReturn, r.ReplyCode, r.ReplyText)
		}
	default:
	}
	return nil
}

// unconfirmed returns an error that explains why RabbitMQ has not acknowledged the message.
func (c *channel) unconfirmed() error {
	// Check first whether the channel is closed, because the AMQP library reports both a closed channel and a rejected
	// message as a negative acknowledgment (nack).
	select {
	case e := <-c.closes:
		if e != nil {
			return fmt.Errorf("RabbitMQ closed the channel: %w", e)
		}
		return errAway
	default:
	}
	if c.ch.IsClosed() {
		return errAway
	}
	return errNack
}

// discard closes the channel in the background, so that the caller does not wait for an unresponsive broker. If the
// broker never responds, the channel remains open until the connection is closed.
func (c *channel) discard() {
	go func() { _ = c.ch.Close() }()
}
