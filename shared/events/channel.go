package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// openTimeout bounds the opening of a channel; a broker that does not answer by then is as good as gone.
	openTimeout = 3 * time.Second
	// closeTimeout bounds the closing of a connection.
	closeTimeout = 2 * time.Second
)

// link is one connection to RabbitMQ and its idle channels.
type link struct {
	conn    *amqp.Connection
	socket  net.Conn
	blocked atomic.Bool // the broker has said that it takes no messages

	mu   sync.Mutex
	idle []*channel
}

// dial makes a link.
func dial(amqpURL string) (*link, error) {
	conn, socket, err := dialConn(amqpURL)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, socket: socket}
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	go func() {
		for b := range blocks { // ends with the connection
			l.blocked.Store(b.Active)
		}
	}()
	return l, nil
}

// close says goodbye to the broker and closes the socket. There is no error to report: with nothing under way it does
// not matter whether the broker says goodbye too.
func (l *link) close() {
	_ = l.conn.CloseDeadline(time.Now().Add(closeTimeout))
	_ = l.socket.Close()
}

// borrow returns a channel for the caller alone, until it gives it back or discards it.
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
				l.giveBack(r.c) // good for the next caller
			}
		}()
		return nil, fmt.Errorf("open a channel: %w", ctx.Err())
	}
}

// giveBack keeps c for the next borrower.
func (l *link) giveBack(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, c)
}

// open opens a channel in confirm mode, within openTimeout.
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
		return nil, fmt.Errorf("open a channel: confirm mode: %w", err)
	}
	return c, nil
}

// channel is an AMQP channel in confirm mode with at most one event under way, so that a return or an exception can
// only be about that one.
type channel struct {
	ch      *amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
}

// publish sends msg, with its type as routing key, and waits for the confirmation. After an error, which wraps
// ErrUnknown where that applies, the channel must be discarded.
func (c *channel) publish(ctx context.Context, msg amqp.Publishing) error {
	type result struct {
		confirmation *amqp.DeferredConfirmation
		err          error
	}
	sent := make(chan result, 1)
	go func() { // the library does not heed ctx while it writes to the socket
		d, err := c.ch.PublishWithDeferredConfirm(Exchange, msg.Type, true, false, msg)
		sent <- result{d, err}
	}()
	var r result
	select {
	case r = <-sent:
	case <-ctx.Done():
		return unknown(fmt.Errorf("send: %w", ctx.Err()))
	}
	switch {
	case errors.Is(r.err, amqp.ErrClosed):
		// Found closed before the last frame was handed to the connection: the broker never saw a whole message.
		return fmt.Errorf("send: %w", r.err)
	case r.err != nil:
		return unknown(fmt.Errorf("send: %w", r.err))
	}
	ack, err := r.confirmation.WaitContext(ctx)
	switch {
	case err != nil:
		return unknown(fmt.Errorf("wait for the confirmation: %w", err))
	case ack:
		return c.returned()
	}
	return c.unconfirmed()
}

// returned says what an ack means: a mandatory message that no queue takes is sent back first, and then acked.
func (c *channel) returned() error {
	select {
	case r, ok := <-c.returns:
		if ok {
			return fmt.Errorf("%w (%d %s)", errReturn, r.ReplyCode, r.ReplyText)
		}
	default:
	}
	return nil
}

// unconfirmed says why there was no ack. The library reports the end of a channel as a nack.
func (c *channel) unconfirmed() error {
	select {
	case e := <-c.closes:
		if e != nil && e.Server && (e.Code == amqp.NotFound || e.Code == amqp.AccessRefused || e.Code == amqp.PreconditionFailed) {
			// The exchange is missing, not permitted, or does not want such a message: told before any queue saw it.
			return fmt.Errorf("the broker refused the event: %w", e)
		}
		if e != nil {
			return unknown(fmt.Errorf("%w: %w", errAway, e))
		}
		return unknown(errAway)
	default:
	}
	if c.ch.IsClosed() {
		return unknown(errAway)
	}
	// One queue refused it; if an operator has bound another one, that one may have stored it.
	return unknown(errNack)
}

// discard closes the channel behind the caller's back: a broker that hangs would hold up the caller. It ends with the
// connection at the latest.
func (c *channel) discard() {
	go func() { _ = c.ch.Close() }()
}
