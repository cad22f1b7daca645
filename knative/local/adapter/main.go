// Command adapter is the receive adapter of eventing-rabbitmq, which takes messages from a queue and posts them to a
// sink as CloudEvents, with the settings that its controller would give it in the environment. It differs from its
// upstream main in what a machine without a cluster lacks: it needs no kubeconfig, and it does not listen on port 8080
// of all addresses for a kubelet's probes.
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
	// A client for the cluster has to be there; it is not used, since nothing here asks for tokens or watches ConfigMaps.
	ctx, _ = injection.Default.SetupInformers(ctx, &rest.Config{Host: "127.0.0.1:1"})
	ctx = adapter.WithHealthProbesDisabled(ctx)
	adapter.MainWithContext(ctx, "rabbitmqsource", rabbitmq.NewEnvConfig, rabbitmq.NewAdapter)
}
