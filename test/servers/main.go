// Command servers builds, downloads and installs the server programs for the tests in advance, because the first build
// takes minutes. It can install packages only if it runs as root on Debian.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/strongroom-dev/strongroom/local/store"
	"github.com/strongroom-dev/strongroom/test/envoy"
)

func main() {
	ctx := context.Background() // no deadline, because a first build takes minutes; installations have their own timeout
	_, mysql := store.FindMySQL(ctx)
	_, rabbitmq := store.FindRabbitMQ()
	err := errors.Join(
		provide(ctx, "MariaDB", mysql, store.MariaDBPackages...),
		provide(ctx, "RabbitMQ", rabbitmq, "rabbitmq-server"),
	)
	for _, name := range []string{"ferretdb", "adapter", "tidb"} {
		_, failed := store.Build(ctx, name, os.Stdout)
		err = errors.Join(err, failed)
	}
	switch _, failed := envoy.Fetch(ctx, os.Stdout); {
	case errors.Is(failed, envoy.ErrUnavailable):
		fmt.Println("Envoy is NOT installed: the tests that need it will be skipped:", failed)
	default:
		err = errors.Join(err, failed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// provide installs a server's packages if err is store.ErrNotInstalled, and returns any other error unchanged. err
// is the result of searching for the server.
func provide(ctx context.Context, name string, err error, packages ...string) error {
	switch {
	case err == nil:
		fmt.Println(name + " is installed")
		return nil
	case !errors.Is(err, store.ErrNotInstalled):
		return err
	// Do not install packages if STORES is set. The servers are then already running, and the network is
	// unavailable.
	case os.Getenv("STORES") != "" || !store.CanInstall():
		fmt.Println(name + " is NOT installed: tests that start a private " + name + " server will be skipped")
		return nil
	}
	return store.Install(ctx, os.Stdout, packages...)
}
