// Command servers provides the servers that the tests run against: it installs Debian's MariaDB and RabbitMQ where it may,
// by root, and builds the embedded ones, which takes minutes the first time and would starve the tests that ran meanwhile.
// No service is started; each test has instances of its own.
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

// provide installs what could not be found, if found says so.
func provide(ctx context.Context, name string, found error, install func(context.Context, io.Writer) error) error {
	switch {
	case found == nil:
		fmt.Println(name + " is installed")
		return nil
	case !errors.Is(found, store.ErrNotInstalled):
		return found
	case !store.CanInstall():
		fmt.Println(name + " is NOT installed, and only root on a Debian can have it installed: tests that need it will be skipped")
		return nil
	}
	return install(ctx, os.Stdout)
}
