// Command adapter runs the receive adapter of eventing-rabbitmq without a cluster. The adapter receives messages from a
// queue and posts them to a sink as CloudEvents. Its settings are the environment variables that the eventing-rabbitmq
// controller would set. Unlike the upstream command, this command reads no kubeconfig, and it does not respond to a
// kubelet's probes on port 8080.
package main

import (
	"k8s.io/client-go/rest"
	rabbitmq "knative.dev/eventing-rabbitmq/pkg/adapter"
	"knative.dev/eventing/pkg/adapter/v2"
	"knative.dev/pkg/injection"
	"knative.dev/pkg/signals"
)

func main() {
	ctx := signals.NewContext()
	// The packages of the adapter require a Kubernetes client in ctx. The adapter never uses this client, because it
	// requests no tokens and watches no ConfigMaps. The client's address is therefore only a placeholder.
	ctx, _ = injection.Default.SetupInformers(ctx, &rest.Config{Host: "127.0.0.1:1"})
	ctx = adapter.WithHealthProbesDisabled(ctx)
	adapter.MainWithContext(ctx, "rabbitmqsource", rabbitmq.NewEnvConfig, rabbitmq.NewAdapter)
}
