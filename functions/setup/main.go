// Command setup prepares MySQL, MongoDB and RabbitMQ for Strongroom. On Kubernetes, it runs as a Job. In MySQL, it
// creates the tables, the runtime user, and the first users of Strongroom. In MongoDB, it creates the runtime user and
// the indexes. In RabbitMQ, it declares the exchanges and the queues. setup can run repeatedly and concurrently,
// because it changes only objects that differ from the settings. It never changes an existing user of Strongroom,
// because an admin might have changed that user since setup created it.
//
// With arguments, setup runs another command that needs the same privileges. "setup redrive" moves dead letters back
// to the event queue. "setup recatalogue" publishes the events for files that are missing from the catalog. "setup
// users import FILE" creates users with the password hashes that they have in another system.
package main

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/strongroom-dev/strongroom/shared/function"
)

// config contains the settings of all commands. Each command requires only the settings that it uses.
type config struct {
	// DSN is the MySQL data source name for the runtime user. setup connects as this user to create the users of
	// Strongroom. If AdminDSN is set, setup first creates the runtime user.
	DSN string `env:"MYSQL_DSN,unset"`
	// AdminDSN is the MySQL data source name for an administrator, who must be allowed to create databases, tables and
	// users. If AdminDSN is not set, the runtime user must be allowed to create tables, because setup then creates the
	// tables as that user.
	AdminDSN string `env:"MYSQL_ADMIN_DSN,unset"`
	// MongoURI is the MongoDB URI for the runtime user. setup connects as this user to create the indexes. If
	// MongoAdminURI is set, setup first creates the runtime user.
	MongoURI string `env:"MONGODB_URI,unset"`
	// MongoAdminURI is the MongoDB URI for an administrator, who must be allowed to create users. If MongoAdminURI is
	// not set, setup does not create a MongoDB user.
	MongoAdminURI string `env:"MONGODB_ADMIN_URI,unset"`
	// EventsURL is the RabbitMQ URL for a user that is allowed to declare exchanges and queues. If EventsURL is not
	// set, setup does not declare exchanges and queues, because the functions then send events over HTTP instead of
	// RabbitMQ.
	EventsURL string `env:"EVENTS_ADMIN_URL,unset"`
	// AdminUsername and AdminPassword are the credentials of the first admin. Either both or neither must be set. If
	// they are not set, setup does not create an admin.
	AdminUsername string `env:"ADMIN_USERNAME,unset"`
	AdminPassword string `env:"ADMIN_PASSWORD,unset"`
	// DemoUsers are additional users for demonstrations. The value of DEMO_USERS is a JSON list of objects with the
	// members username, password and role. Only `make run` sets DEMO_USERS.
	DemoUsers seeds `env:"DEMO_USERS,unset"`
}

func main() { function.Job(setup) }

var errUsage = errors.New("usage: setup (prepare the stores) | setup redrive (move dead letters back to the event queue) | setup recatalogue (publish the events for files that are missing from the catalog) | setup users import FILE (create users from a file of JSON lines; - means standard input)")

// setup runs the command that args selects. If args is empty, setup prepares the stores.
func setup(ctx context.Context, cfg config, args []string) error {
	switch {
	case len(args) == 0:
		return prepare(ctx, cfg)
	case slices.Equal(args, []string{"redrive"}), slices.Equal(args, []string{"--redrive"}):
		return redrive(ctx, cfg, os.Stdout)
	case slices.Equal(args, []string{"recatalogue"}):
		return recatalogue(ctx, cfg, os.Stdout)
	case len(args) == 3 && args[0] == "users" && args[1] == "import":
		return importUsers(ctx, cfg, args[2], os.Stdout)
	}
	return errUsage
}
