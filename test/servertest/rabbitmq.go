package servertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/strongroom-dev/strongroom/local/store"
)

// RabbitMQServer is a RabbitMQ server with its management plugin.
type RabbitMQServer struct {
	Killable      // nil if the server is shared with other tests
	AdminURL      string
	ManagementURL string
	private       *store.Rabbit // set only if OwnRabbitMQ started the server
}

// RabbitMQ returns the RabbitMQ server that all tests use.
func RabbitMQ(t *testing.T) RabbitMQServer {
	t.Helper()
	if named, ok := namedRabbitMQ(t); ok {
		return named
	}
	private, err := privateRabbitMQ()
	Need(t, "rabbitmq-server", err)
	return RabbitMQServer{AdminURL: private.URL, ManagementURL: private.ManagementURL}
}

// OwnRabbitMQ returns a RabbitMQ server that no other test uses at the same time.
func OwnRabbitMQ(t *testing.T) RabbitMQServer {
	t.Helper()
	if named, ok := namedRabbitMQ(t); ok && os.Getenv("STORES") != "" {
		named.Killable = ownNamed(t, "rabbitmq")
		return named
	}
	private := own(t, "rabbitmq-server", "rabbitmq", store.StartManagedRabbitMQ)
	return RabbitMQServer{private, private.URL, private.ManagementURL, private}
}

// namedRabbitMQ returns the RabbitMQ server that EVENTS_ADMIN_URL and EVENTS_MANAGEMENT_URL specify. It returns
// false if these environment variables are not set.
func namedRabbitMQ(t *testing.T) (RabbitMQServer, bool) {
	t.Helper()
	named := RabbitMQServer{AdminURL: os.Getenv("EVENTS_ADMIN_URL"), ManagementURL: os.Getenv("EVENTS_MANAGEMENT_URL")}
	if (named.AdminURL == "") != (named.ManagementURL == "") {
		t.Fatal("set EVENTS_ADMIN_URL and EVENTS_MANAGEMENT_URL together: a test creates its virtual host through the management API " +
			"and uses it through AMQP")
	}
	return named, named.AdminURL != ""
}

// Vhost is a virtual host of a RabbitMQ server.
type Vhost struct {
	RabbitMQServer
	Name string
	// URL is the administrator's amqp URL of the virtual host.
	URL string
}

// Permissions are regular expressions for the names of the exchanges and queues that a RabbitMQ user is allowed to
// configure, write to and read from.
type Permissions struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// NewVhost creates a virtual host, which is deleted when the test ends. Tests cannot share a virtual host, because the
// names of the exchanges and queues are fixed.
func (s RabbitMQServer) NewVhost(t *testing.T) Vhost {
	t.Helper()
	u := ParseURL(t, s.AdminURL)
	v := Vhost{RabbitMQServer: s, Name: UniqueName()}
	s.put(t, "vhosts/"+v.Name, struct{}{})
	s.deleteAtEnd(t, "vhosts/"+v.Name)
	s.put(t, "permissions/"+v.Name+"/"+url.PathEscape(u.User.Username()), Permissions{".*", ".*", ".*"})
	u.Path = "/" + v.Name
	v.URL = u.String()
	return v
}

// NewUser creates a user with the given permissions in the virtual host and returns the user's amqp URL. The user is
// deleted when the test ends.
func (v Vhost) NewUser(t *testing.T, allowed Permissions) (amqpURL string) {
	t.Helper()
	name, password := UniqueName(), rand.Text()
	v.put(t, "users/"+name, map[string]string{"password": password, "tags": ""})
	v.deleteAtEnd(t, "users/"+name)
	v.put(t, "permissions/"+v.Name+"/"+name, allowed)
	u := ParseURL(t, v.URL)
	u.User = url.UserPassword(name, password)
	return u.String()
}

// put creates an object through the management API.
func (s RabbitMQServer) put(t *testing.T, path string, object any) {
	t.Helper()
	if err := s.manage(t.Context(), http.MethodPut, path, object); err != nil {
		t.Fatal(err)
	}
}

// deleteAtEnd deletes an object through the management API when the test ends. It tries again after an error, because
// RabbitMQ can respond with status 500 to the deletion of a virtual host after a crash.
func (s RabbitMQServer) deleteAtEnd(t *testing.T, path string) {
	t.Helper()
	AtEnd(t, "RabbitMQ", func(ctx context.Context) error {
		for {
			err := s.manage(ctx, http.MethodDelete, path, nil)
			if err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Second):
			}
		}
	})
}

// manage sends a request to the management API. It returns no error for the deletion of an object that does not exist,
// because an earlier attempt might have deleted the object.
func (s RabbitMQServer) manage(ctx context.Context, method, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.ManagementURL, "/")+"/api/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	gone := method == http.MethodDelete && response.StatusCode == http.StatusNotFound
	if err == nil && response.StatusCode >= 300 && !gone {
		err = fmt.Errorf("%s %s: %s %s", method, path, response.Status, text)
	}
	return err
}

// Rabbitmqctl runs RabbitMQ's command-line tool on a server that OwnRabbitMQ returned.
func (s RabbitMQServer) Rabbitmqctl(t *testing.T, args ...string) {
	t.Helper()
	// Do not use the rabbitmqctl script on Debian's PATH, because it requires the system user rabbitmq. The following
	// program, which the script runs, does not require this user.
	tool := "/usr/lib/rabbitmq/bin/rabbitmqctl"
	var cmd *exec.Cmd
	if s.private == nil {
		cmd = exec.CommandContext(t.Context(), tool, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: filepath.Join(os.Getenv("STORES_DIR"), "rabbitmq", "root")}
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/var/lib/rabbitmq", "RABBITMQ_NODENAME=rabbit@localhost"}
		cmd.Dir = "/"
	} else {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.private.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(tool); err != nil {
			if tool, err = exec.LookPath("rabbitmqctl"); err != nil {
				t.Fatal(err)
			}
		}
		cmd = exec.CommandContext(t.Context(), tool, args...)
		cmd.Env = strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00")
		cmd.Dir = filepath.Dir(servers.dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Channel connects to a virtual host and returns an AMQP channel. The connection is closed when the test ends.
func Channel(t *testing.T, broker Vhost) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // fails if the test has stopped the broker
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// QueueDepth returns the number of ready messages in a queue.
func QueueDepth(t *testing.T, ch *amqp.Channel, queue string) int {
	t.Helper()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// GetMessage waits for a message in a queue, removes it from the queue and returns it.
func GetMessage(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	var message amqp.Delivery
	Eventually(t, Recovery, "the queue "+queue+" has a message", func() error {
		m, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return errors.New("the queue is empty")
		}
		message = m
		return nil
	})
	return message
}

// WithPassword replaces the password in the URL of a store.
func WithPassword(t *testing.T, raw, password string) string {
	t.Helper()
	u := ParseURL(t, raw)
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}
