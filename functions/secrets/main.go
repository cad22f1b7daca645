// Command secrets is the Job that generates Strongroom's missing Secrets in the cluster, so that no secret value is
// ever in a file, an argument or a manifest.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
)

type config struct {
	// Host and Port form the address of the Kubernetes API. Kubernetes sets both environment variables in every pod.
	Host string `env:"KUBERNETES_SERVICE_HOST,required"`
	Port string `env:"KUBERNETES_SERVICE_PORT,required"`
	// ServiceAccount is the directory where Kubernetes mounts three files: the CA certificate of the Kubernetes API,
	// the pod's namespace, and the service account token.
	ServiceAccount string `env:"SERVICE_ACCOUNT_DIR" envDefault:"/var/run/secrets/kubernetes.io/serviceaccount"`
	// Stores is development, or external if an operator creates the Secrets of the stores.
	Stores string `env:"STORES" envDefault:"development"`
}

func main() { function.Job(run) }

func run(ctx context.Context, cfg config, args []string) error {
	api, err := newKubernetes(cfg.Host, cfg.Port, cfg.ServiceAccount)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 0 && cfg.Stores != "development" && cfg.Stores != "external":
		return fmt.Errorf("STORES: got %q, want development or external", cfg.Stores)
	case len(args) == 0:
		return ensureAll(ctx, api, cfg.Stores == "external")
	case len(args) == 2 && args[0] == "rotate":
		// Perform one step of a signing key rotation (docs/key-rotation.md).
		return rotate(ctx, api, args[1], time.Now, os.Stdout)
	}
	return errUsage
}
