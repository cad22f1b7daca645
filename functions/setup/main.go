// Command setup prepares MySQL, MongoDB and RabbitMQ for Strongroom, and creates the first Strongroom users. It can
// run repeatedly and concurrently, and never changes an existing Strongroom user.
package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/password"
)

// config contains the settings of all setup commands. Each command requires only the settings that it uses.
type config struct {
	// DSN is the MySQL data source name that the functions use. If AdminDSN is set, setup creates or updates the
	// MySQL user that DSN names.
	DSN function.Secret `env:"MYSQL_DSN_FILE"`
	// AdminDSN is the MySQL data source name for a user that can create databases, tables and users. If AdminDSN is
	// not set and a migration is pending, the user in DSN must be able to create tables.
	AdminDSN function.OptionalSecret `env:"MYSQL_ADMIN_DSN_FILE"`
	// MongoURI is the MongoDB URI that the functions use. If MongoAdminURI is set, setup creates or updates the
	// MongoDB user that MongoURI names.
	MongoURI function.Secret `env:"MONGODB_URI_FILE"`
	// MongoAdminURI is the MongoDB URI for a user that can create users. If MongoAdminURI is not set, setup does not
	// create a MongoDB user.
	MongoAdminURI function.OptionalSecret `env:"MONGODB_ADMIN_URI_FILE"`
	// EventsURL is the RabbitMQ URL for a user that can declare exchanges and queues. It is not set if the functions
	// send events over HTTP instead of RabbitMQ.
	EventsURL function.OptionalSecret `env:"EVENTS_ADMIN_URL_FILE"`
	// AdminUsername and AdminPassword are the credentials of the first admin. setup creates the first admin only if no
	// enabled admin exists. If neither is set, setup does not create an admin.
	AdminUsername function.Secret `env:"ADMIN_USERNAME_FILE"`
	AdminPassword function.Secret `env:"ADMIN_PASSWORD_FILE"`
	password.PolicySettings
	// BackupDir is the folder that contains the backups. Only the backup, backups and restore commands use it.
	BackupDir string `env:"BACKUP_DIR"`
	// BackupKeep is the number of backups that the backup command keeps. It must be at least 1.
	BackupKeep int `env:"BACKUP_KEEP" envDefault:"14"`
	// DemoUsers are users for demonstrations. The file contains a JSON list of objects with the members username,
	// password and role. Only `make run` sets DEMO_USERS_FILE.
	DemoUsers seeds `env:"DEMO_USERS_FILE"`
}

func main() { function.Job(setup) }

var errUsage = errors.New("usage: setup (prepare the stores) | setup redrive (move dead letters back to the event queue) | setup fsck [--repair] (find files without a catalog entry, and data without a file; --repair repairs both) | setup scrub [AFTER] (read all files, or those with an ID after AFTER, and report missing or changed bytes) | setup backup (back up MySQL and MongoDB to BACKUP_DIR) | setup backups (list the backups) | setup restore BACKUP [--overwrite] (replace the data in MySQL and MongoDB with a backup; --overwrite also replaces files and accounts) | setup lost (list the uploads since the restored backup) | setup users import FILE (create users from a file of JSON lines; - means standard input)")

// setup runs the command that args selects. If args is empty, setup prepares MySQL, MongoDB and RabbitMQ.
func setup(ctx context.Context, cfg config, args []string) error {
	switch {
	case len(args) == 0:
		return prepare(ctx, cfg)
	case slices.Equal(args, []string{"redrive"}), slices.Equal(args, []string{"--redrive"}):
		return redrive(ctx, cfg, os.Stdout)
	case slices.Equal(args, []string{"fsck"}), slices.Equal(args, []string{"fsck", "--repair"}):
		return fsck(ctx, cfg, len(args) == 2, os.Stdout)
	case len(args) == 1 && args[0] == "scrub":
		return scrub(ctx, cfg, "", os.Stdout)
	case len(args) == 2 && args[0] == "scrub":
		return scrub(ctx, cfg, args[1], os.Stdout)
	case slices.Equal(args, []string{"backup"}):
		return backup(ctx, cfg, time.Now(), os.Stdout)
	case slices.Equal(args, []string{"backups"}):
		return printBackups(cfg, os.Stdout)
	case len(args) == 2 && args[0] == "restore", len(args) == 3 && args[0] == "restore" && args[2] == "--overwrite":
		return restore(ctx, cfg, args[1], len(args) == 3, os.Stdout)
	case slices.Equal(args, []string{"lost"}):
		return lost(ctx, cfg, os.Stdout)
	case len(args) == 3 && args[0] == "users" && args[1] == "import":
		return importUsers(ctx, cfg, args[2], os.Stdout)
	}
	return errUsage
}
