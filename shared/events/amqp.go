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
	"golang.org/x/sync/singleflight"

	"github.com/strongroom-dev/strongroom/shared/dialer"
)

const (
	// dialTimeout is how long connecting to RabbitMQ may take, including the name lookup and the TCP, TLS and AMQP
	// handshakes. On a fast network, connecting takes about 2 ms.
	dialTimeout = 3 * time.Second
	// writeTimeout is how long each write to the socket may take. During a memory alarm, RabbitMQ stops reading, so
	// a write would otherwise block until the alarm ends.
	writeTimeout = 3 * time.Second
	// heartbeat is the interval at which both ends of a connection send heartbeats. A connection that receives
	// nothing for 1.5 intervals is closed, because the other end is probably unreachable.
	heartbeat = 10 * time.Second
	// publishTries is how many times Publish tries to publish an event if there is no connection. In a cluster, the
	// address can lead to a stopped node until the load balancer removes the node.
	publishTries = 4
	// publishPause is the time between two tries.
	publishPause = 500 * time.Millisecond
	// maxChannels is the maximum number of channels in use at the same time. Publishing an event takes about 1 ms,
	// so this number of channels is enough for several thousand events per second.
	maxChannels = 16
)

var (
	errClosed  = errors.New("the publisher is closed")
	errBlocked = errors.New("RabbitMQ is not accepting messages because of a memory or disk alarm")
	errReturn  = errors.New("no queue is bound to the event type (has setup run?)")
	errNack    = errors.New("a queue rejected the event (nack), for example because the queue is full")
	errAway    = errors.New("the connection was lost before RabbitMQ confirmed the event")
)

// amqpPublisher publishes events to RabbitMQ over one connection. Publish opens the connection if it is not
// open yet or has been lost.
type amqpPublisher struct {
	url   string
	slots chan struct{} // has one element for each channel in use

	dials singleflight.Group // makes concurrent callers share one attempt to connect

	mu     sync.Mutex
	link   *link // the latest connection, which might be closed
	closed bool
}

func newAMQPPublisher(eventsURL string) *amqpPublisher {
	return &amqpPublisher{url: eventsURL, slots: make(chan struct{}, maxChannels)}
}

// Publish sends e as a persistent, mandatory message whose routing key is the event type. It waits until RabbitMQ
// confirms that all matching queues have stored the message. If it cannot connect or the connection is lost, for example
// because a node of a RabbitMQ cluster has stopped, Publish tries again.
func (p *amqpPublisher) Publish(ctx context.Context, e event.Event) error {
	body, err := structured(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for try := 1; ; try++ {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return unavailable(fmt.Errorf("publish event %s: wait for a channel: %w", e.ID(), ctx.Err()))
		}
		l, err := p.publish(ctx, amqp.Publishing{
			ContentType:  event.ApplicationCloudEventsJSON,
			DeliveryMode: amqp.Persistent,
			MessageId:    e.ID(),
			Timestamp:    e.Time(),
			Type:         e.Type(),
			Body:         body,
		})
		<-p.slots
		if err == nil {
			return nil
		}
		connected := l != nil && !l.conn.IsClosed()
		if connected || errors.Is(err, errClosed) || isRefusal(err) || try == publishTries {
			return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
		}
		select {
		case <-time.After(publishPause):
		case <-ctx.Done():
			return unavailable(fmt.Errorf("publish event %s: %w", e.ID(), err))
		}
	}
}

// publish publishes a message once. It returns the connection that it has used, or nil if it could not connect.
func (p *amqpPublisher) publish(ctx context.Context, msg amqp.Publishing) (*link, error) {
	l, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	c, err := l.borrow(ctx)
	if err != nil {
		return l, err
	}
	if err := c.publish(ctx, msg); err != nil {
		// Do not reuse the channel, because a late response to this message could be mistaken for the response to
		// the next message.
		c.discard()
		return l, err
	}
	l.giveBack(c)
	return l, nil
}

// Close closes the connection. Afterward, Publish returns errors.
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

// connect returns the open connection, or opens one. If ctx is done first, connect returns an error, but the
// attempt to connect continues for the other callers.
func (p *amqpPublisher) connect(ctx context.Context) (*link, error) {
	if l, err := p.current(); l != nil || err != nil {
		return l, err
	}
	select {
	case result := <-p.dials.DoChan("", p.redial):
		l, _ := result.Val.(*link)
		return l, result.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to RabbitMQ: %w", ctx.Err())
	}
}

// current returns the connection, or nil if the connection is not open. The error is errClosed if the publisher is
// closed.
func (p *amqpPublisher) current() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, errClosed
	case p.link == nil || p.link.conn.IsClosed():
		return nil, nil
	}
	return p.link, nil
}

// redial connects to RabbitMQ and returns the new *link. If an earlier call has already connected, redial returns the
// *link of the open connection.
func (p *amqpPublisher) redial() (any, error) {
	if l, err := p.current(); l != nil || err != nil {
		return l, err
	}
	l, err := dial(p.url)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		go l.close() // no caller waits for this
		return nil, errClosed
	}
	p.link = l
	return l, nil
}

// dialConn connects to RabbitMQ within dialTimeout. It returns the connection and the connection's socket, which
// the caller can close to unblock calls that are waiting for RabbitMQ.
func dialConn(amqpURL string) (*amqp.Connection, net.Conn, error) {
	var socket net.Conn
	conn, err := amqp.DialConfig(amqpURL, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: amqp.Table{"connection_name": "strongroom", "product": "strongroom"},
		Dial: func(network, address string) (net.Conn, error) {
			deadline := time.Now().Add(dialTimeout)
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			defer cancel()
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// The deadline also covers the TLS and AMQP handshakes. The AMQP library clears the deadline afterward.
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
			_ = socket.Close() // the handshake has failed
		}
		return nil, nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	return conn, socket, nil
}

// boundedWriter is a connection on which each write takes at most writeTimeout. It is necessary because the AMQP
// library does not set write deadlines.
type boundedWriter struct{ net.Conn }

// Write implements net.Conn.
func (c boundedWriter) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
