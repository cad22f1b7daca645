// Command servers provides the programs of the servers that the tests start. It builds the embedded servers, which takes minutes
// the first time and would slow down tests that run meanwhile. As root on Debian, it installs MariaDB and RabbitMQ without starting
// their services. It installs nothing if STORES is set: there, the servers run already and no network is available
// (see test/integration/servers_test.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/strongroom-dev/strongroom/knative/local/store"
)

func main() {
	ctx := context.Background() // what is called bounds its time itself
	_, mysql := store.FindMySQL(ctx)
	_, rabbitmq := store.FindRabbitMQ()
	err := errors.Join(
		provide(ctx, "MariaDB", mysql, store.InstallMariaDB),
		provide(ctx, "RabbitMQ", rabbitmq, store.InstallRabbitMQ),
	)
	for _, name := range []string{"ferretdb", "adapter", "tidb"} {
		_, failed := store.Build(ctx, name, os.Stdout)
		err = errors.Join(err, failed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// provide installs a server if found is store.ErrNotInstalled.
func provide(ctx context.Context, name string, found error, install func(context.Context, io.Writer) error) error {
	switch {
	case found == nil:
		fmt.Println(name + " is installed")
		return nil
	case !errors.Is(found, store.ErrNotInstalled):
		return found
	case os.Getenv("STORES") != "" || !store.CanInstall():
		fmt.Println(name + " is NOT installed: tests that start a private one will be skipped")
		return nil
	}
	return install(ctx, os.Stdout)
}
