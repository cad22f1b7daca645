package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func needRabbitMQ(t *testing.T) {
	t.Helper()
	_, err := FindRabbitMQ()
	need(t, err, "install Debian's rabbitmq-server")
}

func TestRabbitMQ(t *testing.T) {
	needRabbitMQ(t)
	testServer(t, func(ctx context.Context, dir string) (instance, numbers, error) {
		server, err := StartRabbitMQ(ctx, dir, t.Output())
		if err != nil {
			return nil, nil, err
		}
		return server, &messages{url: server.URL}, nil
	})
}

func TestRabbitMQRefusesABlankInItsPath(t *testing.T) {
	needRabbitMQ(t)
	if _, err := StartRabbitMQ(t.Context(), t.TempDir()+"/with blank", t.Output()); err == nil || !strings.Contains(err.Error(), "white space") {
		t.Errorf("start in a path with a space: got %v, want an error that mentions white space", err)
	}
}

// messages stores numbers in a quorum queue.
type messages struct {
	url     string
	conn    *amqp.Connection
	channel *amqp.Channel
}

const queue = "numbers"

func (m *messages) connect() error {
	if m.conn != nil && !m.conn.IsClosed() {
		return nil
	}
	conn, err := amqp.DialConfig(m.url, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	channel, err := conn.Channel()
	if err == nil {
		_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	}
	if err == nil {
		err = channel.Confirm(false)
	}
	m.conn, m.channel = conn, channel
	return err
}

func (m *messages) add(ctx context.Context, i int) error {
	if err := m.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	confirm, err := m.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(strconv.Itoa(i))})
	if err != nil {
		return err
	}
	acked, err := confirm.WaitContext(ctx)
	if err == nil && !acked {
		err = errors.New("not acknowledged")
	}
	return err
}

func (m *messages) all(context.Context) (map[int]bool, error) {
	if err := m.connect(); err != nil {
		return nil, err
	}
	channel, err := m.conn.Channel()
	if err != nil {
		return nil, err
	}
	defer channel.Close() // requeues the messages, which are not acknowledged
	found := map[int]bool{}
	for {
		message, any, err := channel.Get(queue, false)
		if err != nil || !any {
			return found, err
		}
		i, err := strconv.Atoi(string(message.Body))
		if err != nil {
			return nil, err
		}
		found[i] = true
	}
}
