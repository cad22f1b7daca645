package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// AdapterConfig configures the receive adapter. In a cluster, the eventing-rabbitmq controller derives the same
// configuration from a RabbitmqSource.
type AdapterConfig struct {
	// Dir is the directory that contains the adapter's log.
	Dir string
	// RabbitURL is the server's AMQP URL. It must not contain percent-encoded characters, because the adapter does
	// not decode them. The URL's user needs read permission for the queue.
	RabbitURL string
	// Queue is the name of the queue from which the adapter receives events. The queue must exist, because the adapter
	// does not declare it.
	Queue string
	// Sink is the URL to which the adapter posts events.
	Sink string
	// Parallelism is the maximum number of events that are delivered at the same time. 0 means 1.
	Parallelism int
	// Retry is how many times the adapter retries a failed delivery before the event becomes a dead letter.
	Retry int
	// BackoffPolicy determines how the delay between retries grows: "exponential", which is the default, or "linear".
	BackoffPolicy string
	// BackoffDelay is the base of the delay between retries, as an ISO 8601 duration such as PT0.5S.
	BackoffDelay string
	// Name and Namespace identify the RabbitmqSource. The default name is strongroom-files, and the default namespace
	// is strongroom.
	Name, Namespace string
	// Progress receives the progress messages if the adapter must be built. It can be nil.
	Progress io.Writer
}

// StartAdapter starts the receive adapter of eventing-rabbitmq. If RabbitMQ is unavailable for more than about six
// seconds, the adapter exits, and the caller must restart it.
func StartAdapter(ctx context.Context, config AdapterConfig) (*Server, error) {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	binary, err := Build(ctx, "adapter", config.Progress)
	if err != nil {
		return nil, err
	}
	return start(ctx, "the receive adapter for "+config.Name, config.Dir, func(dir string) ([]program, error) {
		return []program{{
			path: binary, log: filepath.Join(dir, "adapter.log"), env: config.environment(dir),
			ready: func(context.Context) error { return consumed(config.RabbitURL, config.Queue) },
		}}, nil
	})
}

// environment returns the adapter's environment. It copies only PATH from the environment of this process, because
// other variables could change the adapter's settings.
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
		// Use an invalid port, because the adapter would listen on a valid port even if profiling is disabled.
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

// consumed returns an error if the queue does not exist or has no consumer.
func consumed(url, queue string) error {
	return withChannel(url, func(channel *amqp.Channel) error {
		state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return fmt.Errorf("queue %s: %w", queue, err)
		}
		if state.Consumers == 0 {
			return fmt.Errorf("queue %s has no consumer", queue)
		}
		return nil
	})
}
