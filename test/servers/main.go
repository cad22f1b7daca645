// Command servers installs and builds the server programs that the tests start. It builds FerretDB, TiDB and the
// receive adapter before the tests run, because the first build takes minutes and would slow down the tests. If it runs
// as root on Debian, it also installs MariaDB and RabbitMQ, without starting their system services. It does not install
// them if the environment variable STORES is set, which means that servers are already running and that the network is
// unavailable (see package servertest).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/strongroom-dev/strongroom/local/store"
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
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// provide installs packages for the server called name if err, the result of the search for that server, is
// store.ErrNotInstalled. It returns any other err unchanged.
func provide(ctx context.Context, name string, err error, packages ...string) error {
	switch {
	case err == nil:
		fmt.Println(name + " is installed")
		return nil
	case !errors.Is(err, store.ErrNotInstalled):
		return err
	case os.Getenv("STORES") != "" || !store.CanInstall():
		fmt.Println(name + " is NOT installed: tests that start a private " + name + " server will be skipped")
		return nil
	}
	return store.Install(ctx, os.Stdout, packages...)
}
