//go:build e2e && members

package e2e

import (
	"net/url"
	"testing"

	"github.com/strongroom-dev/strongroom/shared/events"
)

// TestQueueMembers proves that the queues get three members, whichever RabbitMQ nodes run while setup declares the queues.
// It deletes the queues and their messages. sweep publishes the events of these messages again.
func TestQueueMembers(t *testing.T) {
	needRabbitMQCluster(t)
	must := func(pod string, args ...string) {
		t.Helper()
		if _, err := rabbitmqctl(pod, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		// stopped are the pods of the nodes that do not run while the queues are declared. isEmpty is set if these nodes
		// have never been part of the cluster.
		stopped []string
		isEmpty bool
	}{
		{"all nodes run", nil, false},
		{"one node is down", rabbitMQPods[2:], false},
		{"only one node has ever started", rabbitMQPods[1:], true},
	} {
		t.Run(c.name, func(t *testing.T) {
			waitForMembers(t)
			var secret struct {
				Data map[string][]byte `json:"data"`
			}
			get(t, &secret, "secret", "rabbitmq-setup")
			for _, s := range queueStates(t) {
				must(rabbitMQPods[0], "delete_queue", s.Name)
			}
			for _, pod := range c.stopped {
				must(pod, "stop_app")
				if c.isEmpty {
					must(pod, "reset") // removes the node from the cluster and deletes its data
				}
			}
			admin, err := url.Parse(string(secret.Data["url"]))
			if err != nil {
				t.Fatal("the url in the Secret rabbitmq-setup is malformed")
			}
			admin.Scheme, admin.Host = "amqp", forward(t, storesNamespace, "pod/"+rabbitMQPods[0], "5672")
			if err := events.DeclareTopology(t.Context(), admin.String()); err != nil {
				t.Error(err)
			}
			declared := queueStates(t)
			for _, pod := range c.stopped {
				must(pod, "start_app")
			}
			waitForMembers(t)
			for _, s := range declared {
				t.Logf("queue %s: %d members after setup, of which %d run; 3 of 3 after the start of all nodes", s.Name, len(s.Members), len(s.Online))
			}
		})
	}
}
