//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// storesNamespace is the namespace of the stores that test/production/stores creates.
const storesNamespace = "stores"

// rabbitMQPods are the pods of the RabbitMQ cluster in test/production/rabbitmq.yaml.
var rabbitMQPods = []string{"rabbitmq-0", "rabbitmq-1", "rabbitmq-2"}

// queueState contains the nodes of a quorum queue.
type queueState struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Leader  string   `json:"leader"`
	Members []string `json:"members"`
	Online  []string `json:"online"`
}

// needRabbitMQCluster skips the test if Strongroom does not use a RabbitMQ cluster in the namespace stores.
func needRabbitMQCluster(t *testing.T) {
	t.Helper()
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	get(t, &secret, "secret", "rabbitmq-upload")
	nodes := run(t, "kubectl", "get", "statefulset/rabbitmq", "--namespace", storesNamespace, "--ignore-not-found",
		"--output", "jsonpath={.status.readyReplicas}")
	if !strings.Contains(string(secret.Data["url"]), "@rabbitmq."+storesNamespace+".svc") || nodes != "3" {
		t.Skip("Strongroom does not use the three RabbitMQ nodes of test/production/stores")
	}
}

// rabbitmqctl runs rabbitmqctl in a pod of the RabbitMQ cluster and returns its output.
func rabbitmqctl(pod string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "kubectl", append([]string{
		"exec", "--namespace", storesNamespace, pod, "--container", "rabbitmq", "--", "rabbitmqctl"}, args...)...)
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s in %s: %w\n%s", strings.Join(args, " "), pod, err, output)
	}
	return string(output), nil
}

// askRabbitMQ runs rabbitmqctl in the first pod in which it succeeds, and returns its output.
func askRabbitMQ(t *testing.T, args ...string) string {
	t.Helper()
	var last error
	for _, pod := range rabbitMQPods {
		output, err := rabbitmqctl(pod, append([]string{"--silent"}, args...)...)
		if err == nil {
			return output
		}
		last = err
	}
	t.Fatal(last)
	return ""
}

// queueStates returns the state of Strongroom's quorum queues.
func queueStates(t *testing.T) (states []queueState) {
	t.Helper()
	output := askRabbitMQ(t, "--formatter", "json", "list_queues", "name", "type", "leader", "members", "online")
	if err := json.Unmarshal([]byte(output), &states); err != nil {
		t.Fatalf("decode the queues %s: %v", output, err)
	}
	return slices.DeleteFunc(states, func(s queueState) bool {
		return !strings.HasPrefix(s.Name, "strongroom.") || s.Type != "quorum" // the journal is a stream
	})
}

// waitForMembers waits until both queues have three members, and all members run.
func waitForMembers(t *testing.T) (files queueState) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		states := queueStates(t)
		for _, s := range states {
			if len(s.Members) != 3 || len(s.Online) != 3 {
				return fmt.Sprintf("queue %s: got the members %q, of which %q run, want three running members", s.Name, s.Members, s.Online)
			}
			if s.Name == queue {
				files = s
			}
		}
		if len(states) != 2 {
			return fmt.Sprintf("got the queues %v, want two", states)
		}
		return ""
	})
	return files
}

// podOf returns the pod of a RabbitMQ node, such as rabbitmq-0 of rabbit@rabbitmq-0.rabbitmq-nodes.stores.svc.cluster.local.
func podOf(node string) string {
	_, host, _ := strings.Cut(node, "@")
	pod, _, _ := strings.Cut(host, ".")
	return pod
}

// restarts returns how many times Kubernetes has restarted the RabbitMQ node in a pod.
func restarts(t *testing.T, pod string) int {
	t.Helper()
	output := run(t, "kubectl", "get", "pod", pod, "--namespace", storesNamespace, "--output", "jsonpath={.status.containerStatuses[0].restartCount}")
	n, err := strconv.Atoi(output)
	if err != nil {
		t.Fatalf("pod %s: got the number of restarts %q, want a number", pod, output)
	}
	return n
}

// refusedLimit is the longest time for which a client may get errors for the same file while a RabbitMQ node fails.
const refusedLimit = 15 * time.Second

// TestRabbitMQFailover proves that no file is lost and no client gets errors for longer than refusedLimit if a node of a
// RabbitMQ cluster ends immediately during at least 200 uploads. All accepted files get their catalog entries.
func TestRabbitMQFailover(t *testing.T) {
	needRabbitMQCluster(t)
	s := open(t).throughGateway()
	for _, c := range []struct {
		name string
		pod  func(t *testing.T, files queueState) string
	}{
		{"the leader of the queue", func(_ *testing.T, files queueState) string { return podOf(files.Leader) }},
		{"a follower of the leader", func(_ *testing.T, files queueState) string {
			return podOf(files.Members[slices.IndexFunc(files.Members, func(node string) bool { return node != files.Leader })])
		}},
		{"the node to which the event source is connected", func(t *testing.T, _ queueState) string {
			var secret struct {
				Data map[string][]byte `json:"data"`
			}
			get(t, &secret, "secret", "rabbitmq-source")
			// A line contains the user and the process ID, such as <rabbit@rabbitmq-0.….1795812288.1083.0>.
			connections := askRabbitMQ(t, "list_connections", "user", "pid")
			for line := range strings.Lines(connections) {
				if user, pid, _ := strings.Cut(strings.TrimSpace(line), "\t"); user == string(secret.Data["username"]) {
					return podOf(pid)
				}
			}
			t.Fatalf("got the connections %q, want one of the source", connections)
			return ""
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := c.pod(t, waitForMembers(t))
			if !slices.Contains(rabbitMQPods, pod) {
				t.Fatalf("got the pod %q, want one of %q", pod, rabbitMQPods)
			}
			before := restarts(t, pod)
			load := &failoverLoad{s: s, token: s.signedIn(t), kill: func() error {
				// The node ends immediately, without a shutdown. The container of rabbitmqctl ends with it, so the command
				// fails.
				if output, err := rabbitmqctl(pod, "eval", "erlang:halt(137, [{flush, false}])."); err == nil {
					return fmt.Errorf("end the node in %s: got no error, want a failure of the command: %s", pod, output)
				}
				return nil
			}}
			load.run(t)
			started := time.Now()
			for _, f := range load.files {
				s.catalogued(t, f, 8*time.Minute) // sweep publishes an event that upload could not publish
			}
			t.Logf("ended %s: %d uploads before, %d afterward, %d errors, for at most %v per file; all files had catalog entries %v later",
				pod, len(load.files)-load.after, load.after, load.errors, load.longest, time.Since(started).Round(time.Second))
			for _, f := range load.files {
				s.download(t, f)
			}
			if load.longest > refusedLimit {
				t.Errorf("a client got errors for one file for %v, want at most %v", load.longest, refusedLimit)
			}
			if load.after == 0 {
				t.Error("all uploads ended before the node ended")
			}
			waitForMembers(t)
			if got := restarts(t, pod); got != before+1 {
				t.Errorf("pod %s: got %d restarts of the node, want 1", pod, got-before)
			}
		})
	}
}

// failoverLoad uploads files while a RabbitMQ node ends.
type failoverLoad struct {
	s     *system
	token string
	kill  func() error

	mu      sync.Mutex
	started int
	files   []*file
	after   int           // the number of files that were accepted after the node had ended
	killed  bool          // whether the node has ended
	errors  int           // the number of requests that were not accepted
	longest time.Duration // the longest time from the first refused request for a file until the file was accepted
}

// run uploads 200 files with 8 clients, and ends the node after the first 40 files. If fewer than 40 files have been
// uploaded after the end of the node, it uploads up to 1,800 more files.
func (l *failoverLoad) run(t *testing.T) {
	t.Helper()
	const total, most, clients, before, after = 200, 2000, 8, 40, 40
	var group sync.WaitGroup
	failures := make(chan error, clients+1)
	ready := make(chan struct{})
	group.Go(func() {
		<-ready
		err := l.kill()
		l.mu.Lock()
		l.killed = true
		l.mu.Unlock()
		failures <- err
	})
	next := func() (n int, more bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.started++
		if l.started == before {
			close(ready)
		}
		return l.started, l.started <= total || l.after < after && l.started <= most
	}
	for range clients {
		group.Go(func() {
			for n, more := next(); more; n, more = next() {
				if err := l.upload(newFile(fmt.Sprintf("failover-%d.bin", n), 4<<10)); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(l.files) < total {
		t.Fatalf("got %d accepted files, want at least %d", len(l.files), total)
	}
}

// upload uploads a file. It repeats the request until the file is accepted, for up to one minute.
func (l *failoverLoad) upload(f *file) error {
	var refused time.Time // when the first request that was not accepted began
	for {
		began := time.Now()
		got, err := l.s.send(http.MethodPost, "upload", "/upload?name="+f.name, l.token,
			map[string]string{"Content-Type": "application/octet-stream"}, f.content)
		var stored struct {
			ID string `json:"id"`
		}
		if err == nil && got.status == http.StatusAccepted {
			err = json.Unmarshal(got.body, &stored)
		}
		l.mu.Lock()
		if err == nil && got.status == http.StatusAccepted {
			f.id = stored.ID
			l.files = append(l.files, f)
			if l.killed {
				l.after++
			}
			if !refused.IsZero() {
				l.longest = max(l.longest, time.Since(refused))
			}
			l.mu.Unlock()
			return nil
		}
		l.errors++
		l.mu.Unlock()
		if refused.IsZero() {
			refused = began
		}
		if time.Since(refused) > time.Minute {
			return fmt.Errorf("upload %s: got %s, want 202 within a minute", f.name, cmp.Or(errorText(err), got.String()))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// errorText returns the text of an error, or "" if there is no error.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
