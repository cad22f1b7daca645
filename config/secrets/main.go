// Command secrets makes the Secrets that Strongroom needs and that are absent, with generated passwords and keys, and
// leaves alone those that are there. With the arguments rotate and a step it changes the signing key instead: see
// docs/key-rotation.md. It runs as a Job in the cluster, so that no secret is ever in a file, an argument or a manifest.
package main

import (
	"context"
	"os"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
)

// config holds the settings; Kubernetes sets both in every pod.
type config struct {
	// Host and Port are where the Kubernetes API is.
	Host string `env:"KUBERNETES_SERVICE_HOST,required"`
	Port string `env:"KUBERNETES_SERVICE_PORT,required"`
	// ServiceAccount is the directory of the service account's token, namespace and the API's certificate authority.
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
		return ensureAll(ctx, api, groups())
	case len(args) == 2 && args[0] == "rotate":
		return rotate(ctx, api, args[1], time.Now, os.Stdout)
	}
	return errUsage
}
