package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// AdapterConfig is what the controller of eventing-rabbitmq takes from a RabbitmqSource for its receive adapter.
type AdapterConfig struct {
	// Dir is for the adapter's log.
	Dir string
	// RabbitURL is the amqp URL, with the user that may read the queue. The adapter decodes nothing that is
	// percent-encoded in it.
	RabbitURL string
	// Queue must exist: sources here are predeclared.
	Queue string
	// Sink is the URL that events are posted to.
	Sink string
	// Parallelism is how many events are delivered at a time, 1 if it is 0.
	Parallelism int
	// Retry is how often a delivery is repeated; BackoffPolicy is exponential or linear, BackoffDelay an ISO 8601
	// duration such as PT0.5S. With no Retry an event that could not be delivered is dead-lettered at once.
	Retry         int
	BackoffPolicy string
	BackoffDelay  string
	// Name and Namespace are those of the source.
	Name, Namespace string
	// Progress gets the lines of a build; nil for none.
	Progress io.Writer
}

// StartAdapter builds the receive adapter of eventing-rabbitmq, where that is not done yet, starts it, and returns once
// the queue has a consumer. The adapter ends by itself when RabbitMQ is away for more than some six seconds: whoever
// starts it restarts it then, as Kubernetes does.
func StartAdapter(ctx context.Context, config AdapterConfig) (*Server, error) {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	binary, err := Build(ctx, "adapter", config.Progress)
	if err != nil {
		return nil, err
	}
	dir, lock, err := open(config.Dir)
	if err != nil {
		return nil, err
	}
	return start(ctx, "receive adapter", dir, lock, program{
		path: binary, dir: dir, log: filepath.Join(dir, "adapter.log"),
		env:   config.environment(dir),
		ready: func(context.Context) error { return consumed(config.RabbitURL, config.Queue) },
	})
}

// environment is what the adapter gets, and no more: it would take half a dozen other settings from this process's.
func (c AdapterConfig) environment(dir string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"RABBIT_URL=" + strings.TrimSuffix(c.RabbitURL, "/"),
		"RABBITMQ_QUEUE_NAME=" + c.Queue,
		"RABBITMQ_PREDECLARED=true",
		"RABBITMQ_CHANNEL_PARALLELISM=" + strconv.Itoa(max(1, c.Parallelism)),
		"K_SINK=" + c.Sink,
		"NAME=" + cmp.Or(c.Name, "strongroom-files"),
		"NAMESPACE=" + cmp.Or(c.Namespace, "strongroom"),
		"K_LOGGING_CONFIG={}",
		"K_OBSERVABILITY_CONFIG={}",
		// It has a profiling server that serves nothing until it is told to; no port, no server.
		"PROFILING_PORT=none",
	}
	if c.Retry > 0 {
		env = append(env, "HTTP_SENDER_RETRY="+strconv.Itoa(c.Retry), "HTTP_SENDER_BACKOFF_POLICY="+cmp.Or(c.BackoffPolicy, "exponential"))
		if c.BackoffDelay != "" {
			env = append(env, "HTTP_SENDER_BACKOFF_DELAY="+c.BackoffDelay)
		}
	}
	return env
}

// consumed returns nil if the queue has a consumer.
func consumed(url, queue string) error {
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("queue %s: %w", queue, err)
	}
	if state.Consumers == 0 {
		return errors.New("nobody reads queue " + queue)
	}
	return nil
}
