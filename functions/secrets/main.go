// Command secrets creates the Secrets that Strongroom needs, with generated passwords and keys. It does not change
// existing Secrets, except for rabbitmq-definitions, which it updates after a change to the other RabbitMQ Secrets.
// With the argument "rotate" and the name of a step, it instead performs one step of a signing key rotation
// (docs/key-rotation.md). The command runs as a Job in the cluster, so that no secret value is ever in a file, an
// argument or a manifest.
package main

import (
	"context"
	"os"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// Host and Port form the address of the Kubernetes API. Kubernetes sets these variables in every pod.
	Host string `env:"KUBERNETES_SERVICE_HOST,required"`
	Port string `env:"KUBERNETES_SERVICE_PORT,required"`
	// ServiceAccount is the directory where Kubernetes mounts the CA certificate of its API and the pod's namespace and
	// service account token.
	ServiceAccount string `env:"SERVICE_ACCOUNT_DIR" envDefault:"/var/run/secrets/kubernetes.io/serviceaccount"`
}

func main() { function.Job(run) }

func run(ctx context.Context, cfg config, args []string) error {
	api, err := newKubernetes(cfg.Host, cfg.Port, cfg.ServiceAccount)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 0:
		return ensureAll(ctx, api)
	case len(args) == 2 && args[0] == "rotate":
		return rotate(ctx, api, args[1], time.Now, os.Stdout)
	}
	return errUsage
}
